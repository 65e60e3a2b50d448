"""A command in a sandbox, as the server sees it: three pipes and an end."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections import deque
from typing import TYPE_CHECKING, Final

from thunderagent_core.environments.base import ProviderError, Stream

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from thunderagent_core.environments.process.spawner import Child

_UNREAD_BYTES: Final = 256 << 10
"""Output that is read ahead; beyond it the command has to wait."""

_PIECE_BYTES: Final = 64 << 10
_SIGNALLED: Final = 128


class SandboxProcess:
    """A running command.

    Args:
        child: what the spawner calls it.
        kill: ends it with its process group.
        stdin: our end of its standard input.
        outputs: our end of each of its outputs.
    """

    def __init__(
        self, child: Child, kill: Callable[[Child], Awaitable[None]], stdin: int, outputs: dict[Stream, int]
    ) -> None:
        self._child = child
        self._kill = kill
        self._input: int | None = stdin
        self._open = dict(outputs)
        self._reading: set[Stream] = set()
        self._unread: deque[tuple[Stream, bytes]] = deque()
        self._unread_bytes = 0
        self._news = asyncio.Event()
        self._writable = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        for descriptor in (stdin, *outputs.values()):
            os.set_blocking(descriptor, False)
        self._listen()

    async def write(self, data: bytes) -> None:
        """Feed its standard input. Raises ProviderError once nobody reads it."""
        view = memoryview(data)
        while view:
            if self._input is None:
                raise ProviderError("the input of the process is closed", code="process_ended")
            try:
                view = view[os.write(self._input, view) :]
            except BlockingIOError:
                await self._wait_writable(self._input)
            except BrokenPipeError:
                raise ProviderError("the process has ended or closed its input", code="process_ended") from None

    async def close_input(self) -> None:
        """End its standard input."""
        if self._input is not None:
            descriptor, self._input = self._input, None
            self._loop.remove_writer(descriptor)
            self._writable.set()  # whoever waits shall see that it is closed
            os.close(descriptor)

    async def read(self) -> tuple[Stream, bytes] | None:
        """Return the next piece of output, in order within each stream; None once both have ended."""
        while not self._unread:
            if not self._open:
                return None
            self._news.clear()
            await self._news.wait()
        stream, data = self._unread.popleft()
        self._unread_bytes -= len(data)
        self._listen()
        return stream, data

    async def wait(self) -> int:
        """Return its exit status, 128 + N where signal N ended it. Call after ``read`` returned None."""
        status = await asyncio.shield(self._child.status)
        return status if status >= 0 else _SIGNALLED - status

    async def aclose(self) -> None:
        """Kill it with its process group, and close the pipes. One in a frozen sandbox ends when that is thawed."""
        await self.close_input()
        for stream in list(self._open):
            self._close(stream)
        self._unread.clear()
        self._news.set()
        await self._kill(self._child)

    def _listen(self) -> None:
        """Read outputs as long as there is room for what they bring."""
        room = self._unread_bytes < _UNREAD_BYTES
        for stream, descriptor in self._open.items():
            if room and stream not in self._reading:
                self._loop.add_reader(descriptor, self._take, stream)
                self._reading.add(stream)
            elif not room and stream in self._reading:
                self._loop.remove_reader(descriptor)
                self._reading.discard(stream)

    def _take(self, stream: Stream) -> None:
        try:
            data = os.read(self._open[stream], _PIECE_BYTES)
        except BlockingIOError:
            return
        if data:
            self._unread.append((stream, data))
            self._unread_bytes += len(data)
            self._listen()
        else:
            self._close(stream)
        self._news.set()

    def _close(self, stream: Stream) -> None:
        descriptor = self._open.pop(stream)
        if stream in self._reading:
            self._loop.remove_reader(descriptor)
            self._reading.discard(stream)
        os.close(descriptor)

    async def _wait_writable(self, descriptor: int) -> None:
        self._writable.clear()
        self._loop.add_writer(descriptor, self._writable.set)
        try:
            await self._writable.wait()
        finally:
            if self._input == descriptor:
                with contextlib.suppress(OSError):
                    self._loop.remove_writer(descriptor)
