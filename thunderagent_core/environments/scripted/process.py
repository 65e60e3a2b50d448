"""A process of this machine, by its pipes."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections import deque
from typing import TYPE_CHECKING, Final, Self, cast

from thunderagent_core.environments.base import ProviderError, Stream

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_BACKLOG_BYTES: Final = 256 << 10
"""Output held for a reader who takes none, before the process has to wait."""

_STREAMS: Final = {1: Stream.STDOUT, 2: Stream.STDERR}


class LocalProcess(asyncio.SubprocessProtocol):
    """One process with its three pipes, a session leader; what it leaves behind is not its affair."""

    def __init__(self) -> None:
        self._pieces: deque[tuple[Stream, bytes]] = deque()
        self._held = 0
        self._open = set(_STREAMS)
        self._news = asyncio.Event()
        self._writable = asyncio.Event()
        self._writable.set()
        self._input_lost = False
        self._exited = asyncio.Event()
        self._transport: asyncio.SubprocessTransport

    @classmethod
    async def start(cls, command: Sequence[str], env: Mapping[str, str], directory: str) -> Self:
        """Start a process. Raises ProviderError where the system refuses."""
        loop = asyncio.get_running_loop()
        try:
            _, process = await loop.subprocess_exec(cls, *command, cwd=directory, env=dict(env), start_new_session=True)
        except OSError as error:
            raise ProviderError(f"{command[0]}: {error.strerror}", code="spawn_failed") from error
        return process

    # The event loop calls these.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the handle of the process."""
        self._transport = cast("asyncio.SubprocessTransport", transport)

    def pipe_data_received(self, fd: int, data: bytes) -> None:
        """Keep output; stop taking it while too much is kept."""
        self._pieces.append((_STREAMS[fd], data))
        self._held += len(data)
        if self._held > _BACKLOG_BYTES:
            self._hold_back(pause=True)
        self._news.set()

    def pipe_connection_lost(self, fd: int, exc: Exception | None) -> None:  # noqa: ARG002 - why changes nothing
        """Take note that a pipe is closed at the other end."""
        self._open.discard(fd)
        if fd == 0:
            self._input_lost = True
            self._writable.set()
        self._news.set()

    def process_exited(self) -> None:
        """Take note of the end."""
        self._exited.set()

    def pause_writing(self) -> None:
        """Let writers wait."""
        self._writable.clear()

    def resume_writing(self) -> None:
        """Let writers go on."""
        self._writable.set()

    # See ``Process``.

    async def write(self, data: bytes) -> None:
        """Feed its standard input. Raises ProviderError once it has ended."""
        pipe = cast("asyncio.WriteTransport", self._transport.get_pipe_transport(0))
        if self._input_lost or pipe.is_closing():
            raise ProviderError("the process takes no more input", code="process_ended")
        pipe.write(data)
        await self._writable.wait()

    async def close_input(self) -> None:
        """End its standard input."""
        cast("asyncio.WriteTransport", self._transport.get_pipe_transport(0)).close()

    async def read(self) -> tuple[Stream, bytes] | None:
        """Return the next piece of output; None once both streams have ended."""
        while not self._pieces:
            if not self._open:
                return None
            self._news.clear()
            await self._news.wait()
        stream, data = self._pieces.popleft()
        before = self._held
        self._held -= len(data)
        if self._held <= _BACKLOG_BYTES < before:
            self._hold_back(pause=False)
        return stream, data

    async def wait(self) -> int:
        """Return its exit status, 128 + N where signal N ended it."""
        await self._exited.wait()
        status = self._transport.get_returncode()
        return 128 - status if status is not None and status < 0 else status or 0

    async def aclose(self) -> None:
        """Kill it, and whoever is still in its process group."""
        if not self._exited.is_set():
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._transport.get_pid(), signal.SIGKILL)
        await self._exited.wait()
        self._transport.close()
        self._open.clear()
        self._news.set()

    def _hold_back(self, *, pause: bool) -> None:
        for fd in self._open & set(_STREAMS):
            pipe = cast("asyncio.ReadTransport", self._transport.get_pipe_transport(fd))
            if pause:
                pipe.pause_reading()
            else:
                pipe.resume_reading()
