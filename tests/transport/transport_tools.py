"""A client and an upstream that know nothing of the code under test: plain sockets and hand-written HTTP."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

HANG_S = 60.0
"""Bounds waits for what must happen; only a failing test ever waits this long."""


@dataclass
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes


class RawClient:
    """One connection to a server under test."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    @classmethod
    async def connect(cls, port: int, receive_buffer: int | None = None) -> RawClient:
        connection = socket.socket()
        connection.setblocking(False)
        if receive_buffer is not None:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        try:
            await asyncio.get_running_loop().sock_connect(connection, ("127.0.0.1", port))
        except OSError:
            connection.close()
            raise
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return cls(*await asyncio.open_connection(sock=connection))

    def send(self, data: bytes) -> None:
        self.writer.write(data)

    async def answer(self, *, to_head: bool = False) -> Answer:
        """Read one response. A body without length ends with the connection."""
        async with asyncio.timeout(HANG_S):
            head = (await self.reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
            headers = {}
            for line in head[1:-2]:
                name, _, value = line.partition(": ")
                assert name not in headers, f"{name} is there twice"
                headers[name] = value
            status = int(head[0].split(" ")[1])
            body = b"" if to_head or status in (100, 204, 304) else await self._body(headers)
            return Answer(status, headers, body)

    async def _body(self, headers: dict[str, str]) -> bytes:
        if "content-length" in headers:
            assert "transfer-encoding" not in headers
            return await self.reader.readexactly(int(headers["content-length"]))
        if headers.get("transfer-encoding") == "chunked":
            pieces = []
            while size := int(await self.reader.readline(), 16):
                pieces.append(await self.reader.readexactly(size))
                assert await self.reader.readexactly(2) == b"\r\n"
            assert await self.reader.readexactly(2) == b"\r\n"
            return b"".join(pieces)
        return await self.reader.read()

    async def rest(self) -> bytes:
        """Return all that comes until the server closes the connection."""
        async with asyncio.timeout(HANG_S):
            return await self.reader.read()

    async def close(self) -> None:
        self.writer.close()
        with contextlib.suppress(ConnectionError):  # the server was first
            await self.writer.wait_closed()

    def reset(self) -> None:
        """Vanish with a TCP reset."""
        reset(self.writer)


def reset(writer: asyncio.StreamWriter) -> None:
    connection = writer.get_extra_info("socket")
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


async def soon(condition: Callable[[], bool]) -> None:
    """Wait for what must become true."""
    async with asyncio.timeout(HANG_S):
        while not condition():
            await asyncio.sleep(0.001)


Script = Callable[["Peer"], Awaitable[None]]


class Peer:
    """One connection that the pool under test made to a scripted upstream."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, number: int) -> None:
        self.reader = reader
        self.writer = writer
        self.number = number  # 0 for the upstream's first connection

    async def request(self) -> tuple[str, dict[str, str], bytes]:
        """Read one request: its first line, headers and body. Raises IncompleteReadError at the end."""
        head = (await self.reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        headers = dict(line.split(": ", 1) for line in head[1:-2])
        assert len(headers) == len(head) - 3, "a field is there twice"
        return head[0], headers, await self.reader.readexactly(int(headers.get("content-length", "0")))

    def send(self, data: bytes) -> None:
        self.writer.write(data)

    def ok(self, body: bytes = b"fine") -> None:
        self.send(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body))

    async def gone(self) -> None:
        """Wait until the pool closes this connection."""
        async with asyncio.timeout(HANG_S):
            try:
                while await self.reader.read(65536):
                    pass
            except ConnectionError:
                pass

    def reset(self) -> None:
        reset(self.writer)


@dataclass
class Upstream:
    """A server that runs ``script`` for each connection."""

    script: Script
    peers: list[Peer] = field(default_factory=list)
    tasks: list[asyncio.Task[None]] = field(default_factory=list)
    port: int = 0
    server: asyncio.Server | None = None

    async def start(self, **options: object) -> None:
        self.server = await asyncio.start_server(self._accept, "127.0.0.1", 0, limit=1 << 20, **options)
        self.port = self.server.sockets[0].getsockname()[1]

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        peer = Peer(reader, writer, len(self.peers))
        self.peers.append(peer)
        self.tasks.append(asyncio.get_running_loop().create_task(self._run(peer)))

    async def _run(self, peer: Peer) -> None:
        try:
            await self.script(peer)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass  # the pool closed the connection: most scripts end so
        finally:
            peer.writer.close()

    async def stop(self) -> None:
        assert self.server is not None
        self.server.close()
        for peer in self.peers:
            peer.writer.close()
        async with asyncio.timeout(HANG_S):
            await asyncio.gather(*self.tasks)
            for peer in self.peers:
                with contextlib.suppress(OSError):  # it was reset, which some tests want
                    await peer.writer.wait_closed()
            await self.server.wait_closed()
