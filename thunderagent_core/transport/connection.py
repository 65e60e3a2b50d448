"""One client's connection: requests in, answers out, in order and one at a time."""

from __future__ import annotations

import asyncio
import logging
import math
import socket
import struct
from typing import TYPE_CHECKING, Final, Protocol, cast

from thunderagent_core.transport.exchange import Exchange
from thunderagent_core.transport.headers import RESPONSE_FRAMING, encode_fields, status_line
from thunderagent_core.transport.limits import BACKLOG_BYTES, LINGER_S
from thunderagent_core.transport.messages import Refusal
from thunderagent_core.transport.reader import Received, RequestReader
from thunderagent_core.transport.sockets import enable_keepalive

if TYPE_CHECKING:
    from thunderagent_core.transport.limits import Limits
    from thunderagent_core.transport.messages import Handler, Headers, Request, Screen

_LOG: Final = logging.getLogger(__name__)


class Owner(Protocol):
    """What a connection needs of its server."""

    handler: Handler
    limits: Limits
    screen: Screen | None
    date: bytes
    stopping: bool

    def opened(self, connection: ServerConnection) -> None:
        """Take note of a new connection."""
        ...

    def forget(self, connection: ServerConnection) -> None:
        """Take note that a connection is lost and its handler has ended."""
        ...

    def refusal(self, status: int, message: str) -> tuple[Headers, bytes]:
        """Return headers and body that report an error."""
        ...


class ServerConnection(asyncio.Protocol):
    """Reads requests, runs the handler for each as a task, and watches for the client's end meanwhile."""

    __slots__ = (
        "_backlog",
        "_deadline",
        "_exchange",
        "_limits",
        "_lingering",
        "_loop",
        "_lost",
        "_owner",
        "_reader",
        "_reading_paused",
        "_task",
        "_transport",
        "_writable",
    )

    def __init__(self, owner: Owner, loop: asyncio.AbstractEventLoop) -> None:
        self._owner = owner
        self._loop = loop
        self._limits = owner.limits
        self._reader = RequestReader(self._limits.max_body_bytes, self._limits.max_header_bytes, owner.screen)
        self._exchange: Exchange | None = None
        self._task: asyncio.Task[None] | None = None
        self._backlog = bytearray()
        self._reading_paused = False
        self._writable: asyncio.Event | None = None  # present while writing is paused
        self._lingering = False
        self._lost = False
        self._deadline = math.inf

    # The event loop calls these.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin to wait for a request."""
        self._transport = cast("asyncio.Transport", transport)
        enable_keepalive(transport)
        self._renew_deadline()
        self._owner.opened(self)

    def data_received(self, data: bytes) -> None:
        """Parse what came, or hold it while a request is being answered."""
        if self._lingering:
            return
        if self._exchange is None and self._writable is None:
            self._feed(data)
            return
        self._backlog += data
        if len(self._backlog) > BACKLOG_BYTES:
            self._overflow()

    def _overflow(self) -> None:
        """Take no more input than is held: see ``BACKLOG_BYTES``."""
        if self._exchange is not None and not self._exchange.finished:
            self._backlog.clear()
            self.abort(reset=True)
        elif not self._reading_paused:
            self._reading_paused = True
            self._transport.pause_reading()

    def eof_received(self) -> None:
        """Treat the client's end as its going away: a plain close and a half-close look the same here."""
        if self._exchange is not None and not self._exchange.finished:
            self._transport.abort()  # a close would wait for a client that may never read

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - why it ended changes nothing
        """Cancel the handler whose answer nobody will read."""
        self._lost = True
        self._deadline = math.inf
        if self._writable is not None:
            self._writable.set()
        if self._task is None:
            self._owner.forget(self)
        elif self._exchange is not None and not self._exchange.finished:
            self._task.cancel()

    def pause_writing(self) -> None:
        """Make ``drain`` wait, and bound how long the client may take none of what is buffered."""
        self._writable = asyncio.Event()
        self._renew_deadline()

    def resume_writing(self) -> None:
        """Let ``drain`` return, and turn to a request that was held because its answer had no room."""
        if self._writable is not None:
            self._writable.set()
            self._writable = None
        self._renew_deadline()
        if self._exchange is None and not self._lingering and not self._transport.is_closing():
            self._next()

    # The server calls these.

    def expire(self, now: float) -> None:
        """Act on whichever time-out has passed at ``now`` (the loop's clock, in seconds)."""
        if now < self._deadline:
            return
        waiting_to_send = self._lingering or self._exchange is not None or self._writable is not None
        if self._reader.receiving and not waiting_to_send:
            message = f"the request did not arrive within {self._limits.request_timeout_s:g} s"
            self._refuse(Refusal(408, message))
        else:
            self._transport.abort()

    def shut_down(self) -> None:
        """Close now if nothing is under way, else after the answer to the current request."""
        if self._exchange is None and not self._reader.receiving and not self._lingering:
            self._transport.close()

    def wind_up(self) -> None:
        """Cancel the handler, which may still end its answer; where none runs, close now."""
        if self._task is not None:
            self._task.cancel()
        elif not self._transport.is_closing():  # else an answer that is complete is on its way out
            self.abort(reset=True)

    def break_off(self) -> None:
        """Close now, whatever is under way, and cancel the handler."""
        self.abort(reset=True)
        if self._task is not None:
            self._task.cancel()

    # The exchange calls these.

    @property
    def closing(self) -> bool:
        """Whether the server is stopping."""
        return self._owner.stopping

    @property
    def date(self) -> bytes:
        """The current value of the Date field."""
        return self._owner.date

    def write(self, data: bytes) -> None:
        """Send bytes, unless the client has gone."""
        if not self._transport.is_closing():
            self._transport.write(data)

    def close(self) -> None:
        """Close once everything written has been sent."""
        self._transport.close()

    def abort(self, *, reset: bool = False) -> None:
        """Close at once; with a TCP reset where a plain end would read as a complete body."""
        if self._lost:
            return
        if reset:
            connection = self._transport.get_extra_info("socket")
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._transport.abort()

    async def drain(self) -> None:
        """Wait while the client reads slower than we write."""
        if self._writable is not None and not self._lost:
            await self._writable.wait()

    # Requests, one after another.

    def _feed(self, data: bytes) -> None:
        receiving = self._reader.receiving
        self._reader.feed(data)
        if self._reader.receiving and not receiving:
            self._renew_deadline()
        self._advance()

    def _advance(self) -> None:
        """Answer what has been received, if it is complete or cannot be served."""
        if self._reader.ready:
            self._answer(self._reader.ready.popleft())
        elif self._reader.refusal is not None:
            self._refuse(self._reader.refusal)
        elif self._reader.wants_continue:
            self._reader.wants_continue = False
            self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def _answer(self, received: Received) -> None:
        self._exchange = exchange = Exchange(self, received)
        self._renew_deadline()
        self._task = self._loop.create_task(self._serve(received.request, exchange))

    async def _serve(self, request: Request, exchange: Exchange) -> None:
        try:
            await self._owner.handler(request, exchange)
            if not exchange.finished:
                raise RuntimeError("the handler returned before its answer was complete")
        except asyncio.CancelledError:
            if not exchange.finished:
                self.abort(reset=True)
            raise
        except Exception:  # noqa: BLE001 - logged; one handler's fault must not end the server
            _LOG.exception("%s %s: the handler failed", request.method, request.path)
            self._report_failure(exchange)
        finally:
            self._served(exchange)

    def _report_failure(self, exchange: Exchange) -> None:
        if exchange.started:
            exchange.abort()
        else:
            exchange.send(500, *self._owner.refusal(500, "internal error"))

    def _served(self, exchange: Exchange) -> None:
        self._task = self._exchange = None
        if self._lost:
            self._owner.forget(self)
        elif exchange.keep_alive and self._writable is None and not self._transport.is_closing():
            self._next()

    def _next(self) -> None:
        """Turn to what the client sent meanwhile."""
        if not self._reader.ready and self._backlog:
            held = bytes(self._backlog)
            self._backlog.clear()
            self._renew_deadline()
            self._feed(held)
        else:
            self._renew_deadline()
            self._advance()
        if self._reading_paused and len(self._backlog) <= BACKLOG_BYTES:
            self._reading_paused = False
            self._transport.resume_reading()

    def _renew_deadline(self) -> None:
        """Start the time-out of whatever this connection now waits for."""
        if self._writable is not None:
            wait = self._limits.send_timeout_s
        elif self._lingering:
            wait = LINGER_S
        elif self._exchange is not None:
            wait = math.inf  # the handler's own affair
        elif self._reader.receiving:
            wait = self._limits.request_timeout_s
        else:
            wait = self._limits.keep_alive_s
        self._deadline = self._loop.time() + wait

    def _refuse(self, refusal: Refusal) -> None:
        """Report why no request of this connection will be read any more, then close."""
        self._lingering = True
        self._backlog.clear()
        self._renew_deadline()
        headers, body = self._owner.refusal(*refusal)
        extra = b"content-length: %d\r\nconnection: close\r\n" % len(body)
        head = status_line(refusal.status) + encode_fields(headers, RESPONSE_FRAMING, extra, self._owner.date)
        self._transport.write(head + body)
        self._transport.write_eof()
