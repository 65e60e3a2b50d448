"""A socket before a daemon that can be cut, hang and come back, as a daemon that is restarted does."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from pathlib import Path


class Relay:
    """Forwards connections to a daemon.

    Args:
        path: where it listens; None: at a TCP port.
        target: ``unix://`` address of the daemon.
    """

    def __init__(self, path: Path | None, target: str) -> None:
        self.url = f"unix://{path}"
        self.connected = asyncio.Event()
        self._path = path
        self._target = urlsplit(target).path
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._mute = False

    async def mend(self) -> None:
        """Listen, and forward."""
        self._mute = False
        if self._server is None and self._path is not None:
            self._server = await asyncio.start_unix_server(self._serve, self._path)
        elif self._server is None:
            self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
            self.url = f"tcp://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    async def cut(self) -> None:
        """Break every connection and refuse new ones."""
        if self._server is not None:
            self._server.close()
            self._server = None
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self._path is not None:
            self._path.unlink(missing_ok=True)

    async def hang(self) -> None:
        """Accept connections and never answer."""
        await self.cut()
        await self.mend()
        self._mute = True

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self.connected.set()
        try:
            if self._mute:
                await asyncio.Event().wait()
            await self._forward(reader, writer)
        except (OSError, asyncio.CancelledError):
            pass
        finally:
            self._tasks.discard(task)
            writer.close()

    async def _forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_unix_connection(self._target)
        try:
            answer = asyncio.create_task(_pump(there, writer))
            question = asyncio.create_task(_pump(reader, back))
            try:
                await answer
            finally:
                answer.cancel()
                question.cancel()
                await asyncio.gather(answer, question, return_exceptions=True)
        finally:
            back.close()


async def _pump(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
    while data := await source.read(65536):
        sink.write(data)
        await sink.drain()
    with contextlib.suppress(OSError):
        sink.write_eof()
