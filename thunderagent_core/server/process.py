"""What concerns the server's process: signals, and how many files it may have open."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from types import TracebackType

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class StopSignals:
    """SIGINT and SIGTERM for the task that enters it: the first asks it to stop, the second does not ask.

    One that comes before anybody waits for the first, while the server still starts, does not ask either.
    """

    def __init__(self) -> None:
        self._first: asyncio.Event | None = None
        self._ended_by_signal = False

    def __enter__(self) -> Self:
        self._loop = asyncio.get_running_loop()
        self._task = asyncio.current_task()
        for number in _SIGNALS:
            self._loop.add_signal_handler(number, self._received)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        for number in _SIGNALS:
            self._loop.remove_signal_handler(number)
        return self._ended_by_signal and isinstance(error, asyncio.CancelledError)

    async def first(self) -> None:
        """Wait until the process is asked to stop."""
        self._first = asyncio.Event()
        await self._first.wait()

    def _received(self) -> None:
        if self._first is not None and not self._first.is_set():
            self._first.set()
        elif self._task is not None:
            self._ended_by_signal = True
            self._task.cancel()


def allow_many_connections() -> None:
    """Raise the limit on open files as far as the system lets us: each agent takes two, and 1024 are soon used up."""
    try:
        import resource  # noqa: PLC0415 - not on every platform
    except ImportError:
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
