"""An HTTP/1.1 server for handlers that stream and wait."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from email.utils import formatdate
from typing import Final

from thunderagent_core.transport.connection import ServerConnection
from thunderagent_core.transport.headers import RESPONSE_FRAMING, encode_fields
from thunderagent_core.transport.limits import Limits
from thunderagent_core.transport.messages import Handler, Headers, Screen

_LAST_WORDS_S: Final = 1.0
"""How long cancelled handlers may take to end their answers while the server stops, and clients to receive them."""

_CANCEL_S: Final = 5.0
"""How long handlers may take to clean up after that."""

_SWEEP_S: Final = 1.0
"""Time-outs are noticed this late at most: one timer for all connections costs less than one for each."""

_LOG: Final = logging.getLogger(__name__)

Refuse = Callable[[int, str], tuple[Headers, bytes]]
"""Makes headers and body that report a status and a message."""


def plain_refusal(status: int, message: str) -> tuple[Headers, bytes]:
    """Report an error as a line of text."""
    return [(b"content-type", b"text/plain; charset=utf-8")], f"{status} {message}\n".encode()


class HttpServer:
    """Serves HTTP/1.0 and 1.1 on one address; each request runs ``handler`` as a task of its own.

    The task is cancelled when the client goes away before its answer is complete. What escapes the handler is
    logged, and answered with 500 where nothing has been sent yet; otherwise the connection is broken off.

    Args:
        handler: answers one request.
        max_body_bytes: longest request body; more is refused with 413 before it is read.
        max_header_bytes: longest request line and headers together; more is refused with 431.
        keep_alive_s: how long a connection may stay open without a request.
        request_timeout_s: how long a request may take to arrive, from its first byte to its last; then 408.
        send_timeout_s: how long a client may take nothing of an answer that fills its buffers.
        refuse: makes headers (lower-case names) and body of errors that the server itself reports.
        screen: judges each request by its head; what it refuses is not read, and its connection is closed.
    """

    def __init__(
        self,
        handler: Handler,
        *,
        max_body_bytes: int = 32 * 1024 * 1024,
        max_header_bytes: int = 64 * 1024,
        keep_alive_s: float = 75.0,
        request_timeout_s: float = 60.0,
        send_timeout_s: float = 300.0,
        refuse: Refuse = plain_refusal,
        screen: Screen | None = None,
    ) -> None:
        self.handler = handler
        self.limits = Limits(max_body_bytes, max_header_bytes, keep_alive_s, request_timeout_s, send_timeout_s)
        self.screen = screen
        self.date = b""
        self.stopping = False
        self._refuse = refuse
        self._connections: set[ServerConnection] = set()
        self._emptied: asyncio.Event | None = None
        self._server: asyncio.Server | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._sweep_s = min(_SWEEP_S, min(keep_alive_s, request_timeout_s, send_timeout_s) / 4)

    async def start(self, host: str, port: int) -> None:
        """Listen on ``host``; with port 0 the system chooses one. Raises OSError where that is impossible."""
        if self._server is not None:
            raise RuntimeError("the server has already been started")
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: ServerConnection(self, loop), host, port, backlog=2048)
        self._emptied = asyncio.Event()
        self._emptied.set()
        self._sweep(loop)

    @property
    def port(self) -> int:
        """The port listened on. Raises RuntimeError before ``start`` and after ``stop``."""
        if self._server is None or not self._server.sockets:
            raise RuntimeError("the server is not listening")
        port: int = self._server.sockets[0].getsockname()[1]
        return port

    @property
    def connections(self) -> int:
        """How many connections are open or have a handler that still runs."""
        return len(self._connections)

    async def stop(self, grace_s: float) -> None:
        """Stop listening, close idle connections, and give requests under way ``grace_s`` seconds.

        Then the handlers that are left are cancelled, and have one second to end their answers before their connections
        are aborted. Returns once they have ended; one that does not within five seconds more is logged. Without
        ``start``, and the second time, nothing happens.
        """
        if self._server is None or self.stopping:
            return
        self.stopping = True
        self._server.close()
        for connection in list(self._connections):
            connection.shut_down()
        if not await self._empty_within(grace_s):
            for connection in list(self._connections):
                connection.wind_up()
            if not await self._empty_within(_LAST_WORDS_S):
                await self._break_off()
        if self._timer is not None:
            self._timer.cancel()

    async def _break_off(self) -> None:
        """End what is left, whatever it is."""
        for connection in list(self._connections):
            connection.break_off()
        if not await self._empty_within(_CANCEL_S):
            _LOG.error("%d handlers did not end when cancelled", len(self._connections))

    async def _empty_within(self, seconds: float) -> bool:
        """Wait until no connection is left; tell whether that was reached."""
        if self._emptied is None:
            return True
        try:
            async with asyncio.timeout(seconds):
                await self._emptied.wait()
        except TimeoutError:
            return False
        return True

    def _sweep(self, loop: asyncio.AbstractEventLoop) -> None:
        self.date = formatdate(usegmt=True).encode("ascii")
        now = loop.time()
        for connection in list(self._connections):
            connection.expire(now)
        self._timer = loop.call_later(self._sweep_s, self._sweep, loop)

    # The connections call these.

    def opened(self, connection: ServerConnection) -> None:
        """Take note of a new connection."""
        self._connections.add(connection)
        if self._emptied is not None:
            self._emptied.clear()
        if self.stopping:
            connection.abort()

    def forget(self, connection: ServerConnection) -> None:
        """Take note that a connection is lost and its handler has ended."""
        self._connections.discard(connection)
        if self._emptied is not None and not self._connections:
            self._emptied.set()

    def refusal(self, status: int, message: str) -> tuple[Headers, bytes]:
        """Return headers and body that report an error, whatever the ``refuse`` that was given does."""
        try:
            headers, body = self._refuse(status, message)
            encode_fields(headers, RESPONSE_FRAMING, b"")
        except Exception:  # noqa: BLE001 - logged; the client still gets its error
            _LOG.exception("refuse(%d, %r) failed", status, message)
            return plain_refusal(status, message)
        return headers, body
