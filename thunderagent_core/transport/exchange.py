"""The answer to one request: framing, and the order in which its parts may be written."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Protocol

from thunderagent_core.transport.headers import RESPONSE_FRAMING, encode_fields, status_line

if TYPE_CHECKING:
    from collections.abc import Iterable

    from thunderagent_core.transport.reader import Received

_BODILESS: Final = frozenset((204, 304))


class Channel(Protocol):
    """What an answer needs of its connection. Writing to one that is lost does nothing."""

    @property
    def closing(self) -> bool:
        """Whether the server is stopping, so that this answer is the connection's last."""
        ...

    @property
    def date(self) -> bytes:
        """The current value of the Date field."""
        ...

    def write(self, data: bytes) -> None:
        """Send bytes."""
        ...

    def close(self) -> None:
        """Close once everything written has been sent."""
        ...

    def abort(self, *, reset: bool) -> None:
        """Close at once; with a TCP reset where a plain end would read as a complete body."""
        ...

    async def drain(self) -> None:
        """Wait while the client reads slower than we write."""
        ...


class Exchange:
    """The ``Responder`` of one request.

    Raises RuntimeError where its methods are called out of order, and ValueError for headers that would
    break the message's framing or for a body that differs from the length announced.
    """

    __slots__ = (
        "_channel",
        "_chunked",
        "_empty",
        "_http_1_0",
        "_remaining",
        "finished",
        "keep_alive",
        "started",
    )

    def __init__(self, channel: Channel, received: Received) -> None:
        self._channel = channel
        self._empty = received.request.method == "HEAD"  # whatever is written, no body goes out
        self._http_1_0 = received.http_1_0
        self._chunked = False
        self._remaining: int | None = None  # bytes still owed, where a length was announced
        self.keep_alive = received.keep_alive
        self.started = False
        self.finished = False

    def send(self, status: int, headers: Iterable[tuple[bytes, bytes]], body: bytes) -> None:
        """Send a whole response in one write, with its Content-Length."""
        if status in _BODILESS and body:
            raise ValueError(f"a response with status {status} has no body")
        # A 304 would have to announce the length that a 200 would have had, which is not known here.
        head = self._head(status, headers, None if status in _BODILESS else len(body))
        self._begin()
        self._channel.write(head if self._empty else head + body)
        self._end()

    def start(self, status: int, headers: Iterable[tuple[bytes, bytes]], *, length: int | None = None) -> None:
        """Send the status line and headers; ``length`` in bytes where known, else the body is chunked.

        A client of HTTP/1.0 knows no chunks: its body ends with the connection.
        """
        self._empty = self._empty or status in _BODILESS
        if length is None and not self._empty:
            self._chunked = not self._http_1_0
            self.keep_alive = self.keep_alive and self._chunked
        head = self._head(status, headers, length)
        self._begin()
        self._remaining = length
        self._channel.write(head)

    def _head(self, status: int, headers: Iterable[tuple[bytes, bytes]], length: int | None) -> bytes:
        if self._channel.closing:
            self.keep_alive = False
        extra = b""
        if length is not None:
            extra = b"content-length: %d\r\n" % length
        elif self._chunked:
            extra = b"transfer-encoding: chunked\r\n"
        if not self.keep_alive:
            extra += b"connection: close\r\n"
        elif self._http_1_0:
            extra += b"connection: keep-alive\r\n"
        return status_line(status) + encode_fields(headers, RESPONSE_FRAMING, extra, self._channel.date)

    def _begin(self) -> None:
        if self.started:
            raise RuntimeError("the response has already been started")
        self.started = True

    def write(self, data: bytes) -> None:
        """Send a piece of the body (empty pieces are ignored; so are all where the response has none)."""
        if not self.started or self.finished:
            raise RuntimeError("the body is written between start and finish")
        if not data or self._empty:
            return
        if self._chunked:
            data = b"%x\r\n%b\r\n" % (len(data), data)
        elif self._remaining is not None:
            self._spend(len(data))
        self._channel.write(data)

    def _spend(self, count: int) -> None:
        owed = self._remaining or 0
        if count > owed:
            self.abort()
            raise ValueError(f"the body is {count - owed} bytes longer than announced")
        self._remaining = owed - count

    async def drain(self) -> None:
        """Wait while the client reads slower than we write."""
        await self._channel.drain()

    def finish(self) -> None:
        """End the body."""
        if not self.started or self.finished:
            raise RuntimeError("finish is called once, after start")
        if self._remaining and not self._empty:
            self.abort()
            raise ValueError(f"the body is {self._remaining} bytes shorter than announced")
        if self._chunked:
            self._channel.write(b"0\r\n\r\n")
        self._end()

    def _end(self) -> None:
        self.finished = True
        if not self.keep_alive or self._channel.closing:  # the head may have been sent before the server was stopped
            self._channel.close()

    def abort(self) -> None:
        """Close the connection at once: the client sees a broken response, never a short whole one."""
        self.finished = True
        self._channel.abort(reset=not self._chunked)
