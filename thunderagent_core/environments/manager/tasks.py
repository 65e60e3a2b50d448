"""Background work: kept alive, logged where it fails, ended together."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any

from thunderagent_core.environments.ledger_errors import FencedError

if TYPE_CHECKING:
    import random
    from collections.abc import Callable, Coroutine

_LOG = logging.getLogger(__name__)


class Tasks:
    """Tasks of one owner.

    Args:
        fenced: called when a task ends because another server has taken over.
    """

    def __init__(self, fenced: Callable[[], None]) -> None:
        self._fenced = fenced
        self._tasks: set[asyncio.Task[Any]] = set()
        self.stopped: Exception | None = None
        """Why nothing runs any more."""

    def spawn(self, work: Coroutine[Any, Any, Any], name: str) -> asyncio.Task[Any]:
        """Run ``work`` in the background; once stopped it is cancelled before it begins."""
        task = asyncio.get_running_loop().create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        if self.stopped is not None:
            task.cancel()
        return task

    async def detached(self, work: Coroutine[Any, Any, Any], name: str) -> Any:
        """Run ``work`` to its end even if the caller is cancelled; return its result, or raise what it raises.

        Raises what ``cancel`` was given where everything is stopped before the end.
        """
        outcome: asyncio.Future[Any] = asyncio.get_running_loop().create_future()

        async def run() -> None:
            try:
                outcome.set_result(await work)
            except asyncio.CancelledError:
                outcome.set_exception(self.stopped or RuntimeError("it was cancelled"))
                raise
            except Exception as error:  # noqa: BLE001 - the caller gets it
                outcome.set_exception(error)

        outcome.add_done_callback(lambda done: done.exception())  # it may be that nobody waits any more

        self.spawn(run(), name)
        return await asyncio.shield(outcome)

    def cancel(self, reason: Exception) -> None:
        """End everything, without waiting for it. Nothing begins any more."""
        self.stopped = self.stopped or reason
        for task in self._tasks:
            task.cancel()

    async def aclose(self, reason: Exception) -> None:
        """End everything and wait until it has ended."""
        self.cancel(reason)
        while self._tasks:
            await asyncio.gather(*self._tasks, return_exceptions=True)
            await asyncio.sleep(0)  # so that the callbacks run

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if task.cancelled():
            return
        error = task.exception()
        if isinstance(error, FencedError):
            self._fenced()
        elif error is not None:
            _LOG.error("%s failed in a way that is a bug", task.get_name(), exc_info=error)


class Backoff:
    """Times to wait between repetitions: doubling, with jitter so that many do not come back at once.

    Args:
        first_s: about the first of them, in seconds.
        longest_s: none is longer.
        random: source of the jitter.
    """

    def __init__(self, first_s: float, longest_s: float, random: random.Random) -> None:
        self._first_s = self._next_s = first_s
        self._longest_s = longest_s
        self._random = random

    def next_s(self) -> float:
        """Return how long to wait now, in seconds."""
        now_s = min(self._next_s, self._longest_s)
        self._next_s = 2 * now_s
        return now_s * self._random.uniform(0.5, 1.0)

    async def wait(self) -> None:
        """Wait that long."""
        await asyncio.sleep(self.next_s())
