"""Effects that a daemon carries out even where the one who asked for them has stopped waiting."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Hashable

T = TypeVar("T")

_GRACE_S: Final = 10.0
"""How long closing waits for them."""


class Underway:
    """Runs effects to their end though their callers are cancelled, so that a later destruction can wait for them.

    A daemon that has begun to make a container goes on when its client hangs up. A destruction in that moment would
    find nothing, and the container would appear after it.
    """

    def __init__(self) -> None:
        self._tasks: dict[Hashable, asyncio.Task[Any]] = {}

    async def run(self, effect: Callable[[], Coroutine[Any, Any, T]], *keys: Hashable) -> T:
        """Return the effect's result. It begins once nothing with one of its ``keys`` is under way."""
        for key in keys:
            while key in self._tasks:
                await self.settle(key)
        task = asyncio.create_task(effect())
        self._tasks.update(dict.fromkeys(keys, task))
        task.add_done_callback(lambda _: self._end(task, keys))
        return await asyncio.shield(task)

    async def settle(self, key: Hashable) -> None:
        """Wait until what is under way with this key has ended, however it ends."""
        task = self._tasks.get(key)
        if task is not None:
            await asyncio.wait({task})
            self._end(task, (key,))

    async def aclose(self) -> None:
        """Let what is under way end, for a while; what then remains is cancelled."""
        tasks = set(self._tasks.values())
        if tasks:
            _, late = await asyncio.wait(tasks, timeout=_GRACE_S)
            for task in late:
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)

    def _end(self, task: asyncio.Task[Any], keys: tuple[Hashable, ...]) -> None:
        for key in keys:
            if self._tasks.get(key) is task:
                del self._tasks[key]
        if not task.cancelled():
            task.exception()  # counts as seen, where nobody waits any more
