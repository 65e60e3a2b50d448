"""The raw connection of a command: its output comes multiplexed, its input can be ended while output still flows.

aiodocker has such streams, too, but no way to end the input alone, which ``cat`` or ``tar -x`` wait for.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from typing import TYPE_CHECKING, Final

from thunderagent_core.environments.base import ProviderError, ProviderUnavailableError, Stream
from thunderagent_core.environments.docker.errors import refusal

if TYPE_CHECKING:
    from thunderagent_core.environments.docker.daemon import Daemon

_BUFFERED_BYTES: Final = 65_536
_HEADER_BYTES: Final = 8
_UPGRADED: Final = frozenset({101, 200})
_STDOUT: Final = 1


class Connection:
    """One command's standard streams. ``read`` belongs to one task, ``write`` and ``end_input`` to another.

    Args:
        reader: what comes after the answer's head.
        writer: takes the input.
    """

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._stream = Stream.STDOUT
        self._left = 0  # of the piece that is being read; survives a cancelled read
        self._ended = False

    async def read(self) -> tuple[Stream, bytes] | None:
        """Return the next piece of output, or None after the last. May be cancelled and called again."""
        try:
            while not self._left:
                header = await self._reader.readexactly(_HEADER_BYTES)
                self._stream = Stream.STDOUT if header[0] <= _STDOUT else Stream.STDERR
                self._left = int.from_bytes(header[4:], "big")
            data = await self._reader.read(min(self._left, _BUFFERED_BYTES))
        except (asyncio.IncompleteReadError, OSError):
            data = b""
        if not data:
            self._ended = True
            return None
        self._left -= len(data)
        return self._stream, data

    async def write(self, data: bytes) -> None:
        """Send input, waiting while the command does not take it. Raises ProviderError ``process_ended``."""
        if not self._ended and not self._writer.is_closing():
            try:
                self._writer.write(data)
                await self._writer.drain()
            except (OSError, RuntimeError):  # closed by the other side, or its input has been ended
                self._ended = self._writer.is_closing()
            else:
                return
        raise ProviderError("the process has ended, or its input has", code="process_ended", permanent=True)

    async def end_input(self) -> None:
        """End the input; output goes on."""
        if not self._writer.is_closing():
            with contextlib.suppress(OSError):
                self._writer.write_eof()

    async def aclose(self) -> None:
        """Close the connection; the command, if it runs, goes on."""
        self._writer.close()
        with contextlib.suppress(OSError, TimeoutError):
            async with asyncio.timeout(1.0):
                await self._writer.wait_closed()


async def start_exec(daemon: Daemon, api_version: str, exec_id: str) -> Connection:
    """Start a command that has been created, and return its connection. Raises as ``Daemon.act``."""
    writer: asyncio.StreamWriter | None = None
    try:
        async with asyncio.timeout(daemon.effect_timeout_s):
            reader, writer = await _connect(daemon)
            writer.write(_request(f"/{api_version}/exec/{exec_id}/start"))
            head = await reader.readuntil(b"\r\n\r\n")
            status = int(head.split(None, 2)[1])
            if status not in _UPGRADED:
                raise refusal(status, f"{daemon.url}: {await _message(reader, head)}")
    except BaseException as error:
        if writer is not None:
            writer.close()
        if isinstance(error, TimeoutError):
            message = f"{daemon.url} did not start the command within {daemon.effect_timeout_s:g} s"
            raise ProviderUnavailableError(message) from error
        if isinstance(error, OSError | EOFError | ValueError | IndexError | asyncio.LimitOverrunError):
            raise ProviderUnavailableError(f"{daemon.url}: {error!r}") from error
        raise
    connection = Connection(reader, writer)
    daemon.streams.add(connection)
    return connection


async def _connect(daemon: Daemon) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    if daemon.path is not None:
        return await asyncio.open_unix_connection(daemon.path, limit=_BUFFERED_BYTES)
    return await asyncio.open_connection(*daemon.address, limit=_BUFFERED_BYTES)


def _request(path: str) -> bytes:
    body = json.dumps({"Detach": False, "Tty": False}).encode()
    lines = (
        f"POST {path} HTTP/1.1",
        "Host: docker",
        "Connection: Upgrade",
        "Upgrade: tcp",
        "Content-Type: application/json",
        f"Content-Length: {len(body)}",
    )
    return "\r\n".join((*lines, "", "")).encode() + body


async def _message(reader: asyncio.StreamReader, head: bytes) -> str:
    """Return what a refusal says."""
    fields = dict(line.lower().split(b":", 1) for line in head.split(b"\r\n")[1:] if b":" in line)
    body = await reader.readexactly(int(fields.get(b"content-length", b"0")))
    return str(json.loads(body)["message"]) if body else "refused"
