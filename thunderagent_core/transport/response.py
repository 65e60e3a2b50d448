"""An upstream's answer while it arrives."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final, Protocol, Self

if TYPE_CHECKING:
    from thunderagent_core.transport.messages import ConnectionLostError, Headers

_BUFFER_BYTES: Final = 262144
"""Body held for a consumer that lags; beyond it the upstream's sending is stopped."""


class Source(Protocol):
    """What a response needs of the connection on which it arrives."""

    def abort(self, reason: str) -> None:
        """Close at once."""
        ...

    def pause(self) -> None:
        """Stop reading from the upstream."""
        ...

    def resume(self) -> None:
        """Read again."""
        ...


class UpstreamResponse:
    """The ``Response`` to one request. Read by one task at a time.

    Whoever holds it must exhaust or ``close`` it; a cancelled wait closes it.
    """

    __slots__ = ("_error", "_held", "_loop", "_pieces", "_source", "_waiter", "headers", "status")

    def __init__(self, status: int, headers: Headers, source: Source, loop: asyncio.AbstractEventLoop) -> None:
        self.status = status
        self.headers = headers
        self._loop = loop
        self._source: Source | None = source  # None once the body is complete
        self._pieces: list[bytes] = []
        self._held = 0
        self._error: ConnectionLostError | None = None
        self._waiter: asyncio.Future[None] | None = None

    def __aiter__(self) -> Self:
        """Yield the decoded body, everything that has arrived at a time. Raises ConnectionLostError."""
        return self

    async def __anext__(self) -> bytes:
        """Wait for more of the body."""
        while not self._pieces:
            if self._error is not None:
                raise self._error
            if self._source is None:
                raise StopAsyncIteration
            await self._wait()
        pieces = self._pieces
        data = pieces[0] if len(pieces) == 1 else b"".join(pieces)
        pieces.clear()
        if self._held > _BUFFER_BYTES and self._source is not None:
            self._source.resume()
        self._held = 0
        return data

    async def read(self) -> bytes:
        """Return the rest of the body. Raises ConnectionLostError where the upstream ends early."""
        if self._source is None and self._error is None:  # all of it is here: the usual case
            data = b"".join(self._pieces)
            self._pieces.clear()
            return data
        return b"".join([piece async for piece in self])

    def close(self) -> None:
        """Abort the connection unless the body is complete. May be called twice."""
        self._pieces.clear()
        if self._source is not None:
            self._source.abort("the response was closed before its end")

    async def _wait(self) -> None:
        if self._waiter is not None:
            raise RuntimeError("a response is read by one task at a time")
        self._waiter = self._loop.create_future()
        try:
            await self._waiter
        except asyncio.CancelledError:
            self.close()
            raise
        finally:
            self._waiter = None

    # The connection calls these.

    def push(self, data: bytes) -> None:
        """Add to the body."""
        self._pieces.append(data)
        self._held += len(data)
        if self._held > _BUFFER_BYTES and self._source is not None:
            self._source.pause()
        self._wake()

    def end(self, error: ConnectionLostError | None = None) -> None:
        """Note that nothing follows; with ``error``, that the body is not complete."""
        self._source = None
        self._error = error
        self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)
