"""One connection to an upstream."""

from __future__ import annotations

import asyncio
import math
from typing import Final, Protocol, cast

import httptools

from thunderagent_core.transport.headers import FINAL_STATUS
from thunderagent_core.transport.messages import ConnectionLostError, Headers, UpstreamSilentError
from thunderagent_core.transport.response import UpstreamResponse
from thunderagent_core.transport.sockets import enable_keepalive

_MAX_HEAD_BYTES: Final = 262144
"""Head of a response, interim ones included. Far more than any server sends."""


class Owner(Protocol):
    """What a connection needs of its pool."""

    def opened(self, connection: UpstreamConnection) -> None:
        """Take note of a new connection."""
        ...

    def idle(self, connection: UpstreamConnection) -> None:
        """Take back a connection that can carry another request."""
        ...

    def forget(self, connection: UpstreamConnection) -> None:
        """Take note that a connection is lost."""
        ...


class UpstreamConnection(asyncio.Protocol):
    """Carries one request at a time."""

    __slots__ = (
        "_complete",
        "_end",
        "_head_bytes",
        "_head_only",
        "_headers",
        "_heard_at",
        "_keep_alive",
        "_loop",
        "_lost",
        "_owner",
        "_parser",
        "_pieces",
        "_reading_paused",
        "_reason",
        "_response",
        "_saw_end",
        "_silent",
        "_started",
        "_status",
        "_surplus",
        "_transport",
        "_waiter",
        "on_body",
    )

    def __init__(self, owner: Owner, loop: asyncio.AbstractEventLoop) -> None:
        self._owner = owner
        self._loop = loop
        self._pieces: list[bytes] = []
        # The parser looks its callbacks up once, so that each chunk goes to the list without a Python call.
        self.on_body = self._pieces.append
        self._parser = httptools.HttpResponseParser(self)
        self._waiter: asyncio.Future[UpstreamResponse] | None = None
        self._response: UpstreamResponse | None = None
        self._reading_paused = False
        self._reason: str | None = None  # why we ended it
        self._lost = False
        self._saw_end = False
        self._silent = False
        self._heard_at = math.inf  # when it began to wait for the upstream; inf: it does not
        self._reset(head_only=False)

    def _reset(self, *, head_only: bool) -> None:
        self._head_only = head_only
        self._head_bytes = 0
        self._headers: Headers = []
        self._status = 0
        self._started = False
        self._complete = False
        self._end = 0  # how many of the pieces belong to the complete response
        self._keep_alive = False
        self._surplus = False

    @property
    def usable(self) -> bool:
        """Whether it can carry a request, as far as is known."""
        return not self._lost and not self._transport.is_closing()

    async def exchange(self, payload: list[bytes], *, head_only: bool) -> UpstreamResponse:
        """Send a request and wait for the head of its response. Raises ConnectionLostError."""
        if self._lost:  # between being made and being used
            raise ConnectionLostError(self._reason or "the upstream closed the connection", response_started=False)
        self._reset(head_only=head_only)
        waiter: asyncio.Future[UpstreamResponse] = self._loop.create_future()
        self._waiter = waiter
        self._heard_at = self._loop.time()
        for part in payload:
            self._transport.write(part)
        try:
            return await waiter
        except asyncio.CancelledError:
            # With an answer already here, the connection may by now carry another's request.
            if waiter.cancelled():
                self.abort("the request was cancelled")
            elif waiter.exception() is None:
                waiter.result().close()
            raise

    def abort(self, reason: str) -> None:
        """Close at once."""
        if self._reason is None:
            self._reason = reason
        if not self._lost:
            self._transport.abort()

    def expire(self, horizon: float) -> None:
        """End an exchange in which the upstream has sent nothing since ``horizon`` (the loop's clock, in seconds)."""
        if self._heard_at <= horizon:
            self._silent = True
            self.abort(f"the upstream sent nothing for {self._loop.time() - self._heard_at:.3g} s")

    def close(self) -> None:
        """Close an idle connection."""
        self._transport.close()

    def pause(self) -> None:
        """Stop reading from the upstream."""
        if not self._reading_paused and not self._transport.is_closing():
            self._reading_paused = True
            self._heard_at = math.inf  # nothing can be heard, and that is not the upstream's fault
            self._transport.pause_reading()

    def resume(self) -> None:
        """Read again."""
        if self._reading_paused and not self._transport.is_closing():
            self._reading_paused = False
            self._heard_at = self._loop.time()
            self._transport.resume_reading()

    # The event loop calls these.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Become usable."""
        self._transport = cast("asyncio.Transport", transport)
        enable_keepalive(transport)
        self._owner.opened(self)

    def data_received(self, data: bytes) -> None:
        """Parse a part of the response."""
        if self._waiter is None and self._response is None:
            self.abort("the upstream sent what was not asked for")
            return
        self._started = True
        self._heard_at = self._loop.time()
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            if not self._complete:
                self._pieces.clear()
                self.abort(f"the upstream's response is not HTTP/1.1: {error}")
                return
            self._surplus = True  # it is what follows the response that makes no sense
        response = self._response
        if response is None:
            self._head_bytes += len(data)
            if self._head_bytes > _MAX_HEAD_BYTES:
                self.abort(f"the head of the upstream's response exceeds {_MAX_HEAD_BYTES} bytes")
            return
        if self._pieces:
            self._deliver(response)
        if self._complete:
            self._finish(response)

    def _deliver(self, response: UpstreamResponse) -> None:
        pieces = self._pieces
        if self._complete and len(pieces) > self._end:
            self._surplus = True  # a body behind the end of the response, or where there can be none
            del pieces[self._end :]
        if pieces:
            response.push(pieces[0] if len(pieces) == 1 else b"".join(pieces))
            pieces.clear()

    def _finish(self, response: UpstreamResponse) -> None:
        self._response = None
        response.end()
        self.resume()
        self._heard_at = math.inf
        sent = self._transport.get_write_buffer_size() == 0  # an early answer leaves a part of the request
        if not (self._keep_alive and sent) or self._surplus:
            self.abort("the connection cannot be used again")
            return
        if self._head_only:
            self._parser = httptools.HttpResponseParser(self)  # the old one still waits for a body
        self._owner.idle(self)

    def eof_received(self) -> None:
        """Remember that the upstream ended of its own will."""
        self._saw_end = True

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell whoever waits."""
        self._lost = True
        response, self._response = self._response, None
        if response is not None and self._saw_end and exc is None and self._ends_with_connection():
            response.end()
        else:
            reason = self._reason or str(exc or "the upstream closed the connection")
            kind = UpstreamSilentError if self._silent else ConnectionLostError
            error = kind(reason, response_started=self._started)
            if response is not None:
                response.end(error)
            if self._waiter is not None and not self._waiter.done():
                self._waiter.set_exception(error)
        self._owner.forget(self)

    def _ends_with_connection(self) -> bool:
        """Whether the response had neither a length nor chunks, so that its end is the connection's."""
        fields = dict(self._headers)
        coding = fields.get(b"transfer-encoding", b"").lower()
        return b"content-length" not in fields and not coding.endswith(b"chunked")

    # The parser calls these.

    def on_message_begin(self) -> None:
        """Start a response, interim or final; a second final one was not asked for."""
        self._surplus = self._complete
        if self._response is None:
            self._headers = []

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a field of the head; trailers are dropped."""
        if self._response is None:
            self._headers.append((name.lower(), value.rstrip(b" \t")))

    def on_headers_complete(self) -> None:
        """Hand the head to whoever waits for it."""
        self._status = self._parser.get_status_code()
        if self._status < FINAL_STATUS or self._waiter is None or self._response is not None:
            return
        self._response = UpstreamResponse(self._status, self._headers, self, self._loop)
        if not self._waiter.done():
            self._waiter.set_result(self._response)
        self._waiter = None
        if self._head_only:
            self._end_of_response()

    def on_message_complete(self) -> None:
        """Note the end of the response."""
        if self._status >= FINAL_STATUS:
            self._end_of_response()

    def _end_of_response(self) -> None:
        if not self._complete:
            self._complete = True
            self._end = len(self._pieces)
            self._keep_alive = self._parser.should_keep_alive()
