"""What crosses the wire, without saying how: requests, responses and what can go wrong with them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from dataclasses import dataclass
from typing import NamedTuple, Protocol

Headers = list[tuple[bytes, bytes]]
"""Header fields in wire order; names are lower case, values are as received without surrounding space."""


@dataclass(slots=True)
class Request:
    """One complete HTTP request: the body has been read, within the server's limit.

    ``path`` is percent-encoded and holds no query; ``query`` is what followed the question mark.
    """

    method: str
    path: str
    query: str
    headers: Headers
    body: bytes

    def header(self, name: bytes) -> bytes | None:
        """Return the first value of the lower-case field ``name``, or None."""
        for key, value in self.headers:
            if key == name:
                return value
        return None


class Refusal(NamedTuple):
    """Why a request is not served."""

    status: int
    message: str


Screen = Callable[[str, str, Headers], Refusal | None]
"""Judges a request by its head (method, path, headers) before its body is read. None: it is welcome."""


class Responder(Protocol):
    """The answer to one request. Each handler calls ``send`` once, or ``start``, ``write`` …, ``finish``.

    Writing to a client that has gone is silently dropped: its handler is being cancelled anyway.
    """

    @property
    def started(self) -> bool:
        """Whether the status line has been sent: from then on an error can only be reported in the body."""
        ...

    def send(self, status: int, headers: Iterable[tuple[bytes, bytes]], body: bytes) -> None:
        """Send a whole response in one write, with its Content-Length."""
        ...

    def start(self, status: int, headers: Iterable[tuple[bytes, bytes]], *, length: int | None = None) -> None:
        """Send the status line and headers; ``length`` in bytes where known, else the body is chunked."""
        ...

    def write(self, data: bytes) -> None:
        """Send a piece of the body (empty pieces are ignored)."""
        ...

    async def drain(self) -> None:
        """Wait while the client reads slower than we write."""
        ...

    def finish(self) -> None:
        """End the body."""
        ...

    def abort(self) -> None:
        """Close the connection at once: the client sees a broken response, never a short whole one."""
        ...


Handler = Callable[[Request, Responder], Awaitable[None]]
"""Answers one request. It is cancelled when the client goes away before the answer is complete, and when the server's
stop can wait no longer: then it may still end its answer, at once."""


class Response(Protocol):
    """An upstream's answer, as it arrives."""

    status: int
    headers: Headers

    def __aiter__(self) -> AsyncIterator[bytes]:
        """Yield the decoded body: each piece is all that has arrived since the last (HTTP chunks are joined).

        Raises ConnectionLostError where the upstream ends early.
        """
        ...

    async def read(self) -> bytes:
        """Return the rest of the body. Raises ConnectionLostError where the upstream ends early."""
        ...

    def close(self) -> None:
        """Give the connection back where the body is complete, else abort it. May be called twice."""
        ...


class TransportError(Exception):
    """An exchange with an upstream failed below HTTP."""


class ConnectFailedError(TransportError):
    """No connection could be made: the upstream has not seen the request."""


class ConnectionLostError(TransportError):
    """The connection ended before the response was complete.

    ``response_started`` tells whether any byte of the response had arrived.
    """

    def __init__(self, message: str, *, response_started: bool) -> None:
        super().__init__(message)
        self.response_started = response_started


class UpstreamSilentError(ConnectionLostError):
    """We ended the connection, because the upstream had sent nothing for too long."""
