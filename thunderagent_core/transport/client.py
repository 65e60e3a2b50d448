"""Requests to one upstream, over connections that are kept and used again."""

from __future__ import annotations

import asyncio
import math
import ssl
from collections import deque
from typing import TYPE_CHECKING, Final
from urllib.parse import SplitResult, urlsplit

from thunderagent_core.transport.headers import REQUEST_FRAMING, encode_fields, request_line
from thunderagent_core.transport.messages import ConnectFailedError, ConnectionLostError, UpstreamSilentError
from thunderagent_core.transport.upstream import UpstreamConnection

if TYPE_CHECKING:
    from collections.abc import Iterable

    from thunderagent_core.transport.response import UpstreamResponse

_JOIN_BYTES: Final = 65536  # below this one copy costs less than a second write
_LOOKS: Final = 8  # at every connection, within the longest silence
_BODILESS: Final = frozenset(("GET", "HEAD", "DELETE", "OPTIONS"))


class ConnectionPool:
    """Connections to one upstream. Used within one event loop; no limit on how many are busy at a time.

    Args:
        base_url: ``http://`` or ``https://``, host, optionally port and a path that is put before each
            request's. Raises ValueError for anything else.
        connect_timeout_s: how long a connection may take to be made, name look-up and TLS included.
        idle_s: how long an unused connection is kept.
        max_idle: how many unused connections are kept.
        silence_s: how long the upstream may send nothing, before an answer or within it, before the exchange is
            ended with UpstreamSilentError; noticed up to an eighth of it late. A reader that lags does not count.
        ssl_context: for https; by default the system's certificates are trusted and host names checked.
    """

    def __init__(
        self,
        base_url: str,
        *,
        connect_timeout_s: float = 5.0,
        idle_s: float = 30.0,
        max_idle: int = 256,
        silence_s: float = math.inf,
        ssl_context: ssl.SSLContext | None = None,
    ) -> None:
        url = _checked_url(base_url)
        self.base_url = base_url
        self._host = url.hostname or ""
        self._port = url.port or (443 if url.scheme == "https" else 80)
        self._prefix = url.path.rstrip("/")
        self._host_line = f"host: {url.netloc}\r\n".encode("ascii")
        self._ssl = (ssl_context or ssl.create_default_context()) if url.scheme == "https" else None
        self._connect_timeout_s = connect_timeout_s
        self._idle_s = idle_s
        self._max_idle = max_idle
        self._silence_s = silence_s
        self._idle: deque[tuple[UpstreamConnection, float]] = deque()  # with the time from which each is unused
        self._all: set[UpstreamConnection] = set()
        self._loop: asyncio.AbstractEventLoop | None = None  # asking for it is a system call on Python 3.11
        self._timer: asyncio.TimerHandle | None = None
        self._watch_timer: asyncio.TimerHandle | None = None
        self._closed = False
        self._emptied: asyncio.Event | None = None

    async def request(
        self,
        method: str,
        path: str,
        headers: Iterable[tuple[bytes, bytes]],
        body: bytes,
        *,
        repeatable: bool = True,
    ) -> UpstreamResponse:
        """Send a request and return its response once the head is here; the body follows by iteration.

        ``path`` is percent-encoded and may hold a query. ``headers`` hold neither host nor framing fields.
        Cancelling the wait closes the connection, which tells the upstream to stop.

        A connection that was kept and turns out dead before the first byte of the response is replaced once. Whether
        the upstream had seen the request cannot be known then, so one that is not ``repeatable`` goes over a new
        connection and is sent once. Raises ConnectFailedError, ConnectionLostError, and ValueError for what cannot be
        put into a request.
        """
        payload = self._encode(method, path, headers, body)
        head_only = method == "HEAD"
        kept = self._take() if repeatable else None
        if kept is not None:
            try:
                return await kept.exchange(payload, head_only=head_only)
            except ConnectionLostError as error:
                if error.response_started or self._closed or isinstance(error, UpstreamSilentError):
                    raise
        fresh = await self._connect()
        return await fresh.exchange(payload, head_only=head_only)

    async def aclose(self) -> None:
        """Close all connections, those in use too, and wait until they are closed. May be called twice."""
        self._closed = True
        for timer in (self._timer, self._watch_timer):
            if timer is not None:
                timer.cancel()
        self._idle.clear()
        self._emptied = asyncio.Event()
        for connection in list(self._all):
            connection.abort("the connection pool was closed")
        if self._all:
            await self._emptied.wait()

    def _encode(self, method: str, path: str, headers: Iterable[tuple[bytes, bytes]], body: bytes) -> list[bytes]:
        framing = self._host_line
        if body or method not in _BODILESS:
            framing += b"content-length: %d\r\n" % len(body)
        head = request_line(method, self._prefix + path) + encode_fields(headers, REQUEST_FRAMING, framing)
        return [head + body] if len(body) < _JOIN_BYTES else [head, body]

    async def _connect(self) -> UpstreamConnection:
        if self._closed:
            raise ConnectFailedError(f"the connections to {self.base_url} were closed")
        loop = self._loop = asyncio.get_running_loop()
        connection = UpstreamConnection(self, loop)
        try:
            async with asyncio.timeout(self._connect_timeout_s):
                await loop.create_connection(lambda: connection, self._host, self._port, ssl=self._ssl)
        except TimeoutError as error:
            self._give_up(connection)
            message = f"no connection to {self.base_url} within {self._connect_timeout_s:g} s"
            raise ConnectFailedError(message) from error
        except OSError as error:
            raise ConnectFailedError(f"cannot connect to {self.base_url}: {error}") from error
        except asyncio.CancelledError:
            self._give_up(connection)
            raise
        return connection

    def _give_up(self, connection: UpstreamConnection) -> None:
        """Forget a connection that was just made when nobody wanted it any more; uvloop does not report its end."""
        if connection in self._all:
            connection.abort("the request was cancelled")
            self.forget(connection)

    # Connections that wait for a request. The latest used is taken first, so that the others may expire.

    def _take(self) -> UpstreamConnection | None:
        while self._idle:
            connection, _ = self._idle.pop()
            if connection.usable:
                return connection
        return None

    def _expire(self, loop: asyncio.AbstractEventLoop) -> None:
        """Close what has been unused for too long, and come back for the next."""
        self._timer = None
        horizon = loop.time() - self._idle_s
        while self._idle and self._idle[0][1] <= horizon:
            self._idle.popleft()[0].close()
        if self._idle:
            self._timer = loop.call_at(self._idle[0][1] + self._idle_s, self._expire, loop)

    def _watch(self, loop: asyncio.AbstractEventLoop) -> None:
        """End exchanges with a silent upstream, and come back: one timer for all costs less than one for each."""
        horizon = loop.time() - self._silence_s
        for connection in list(self._all):
            connection.expire(horizon)
        self._watch_timer = loop.call_later(self._silence_s / _LOOKS, self._watch, loop) if self._all else None

    # The connections call these.

    def opened(self, connection: UpstreamConnection) -> None:
        """Take note of a new connection."""
        self._all.add(connection)
        if self._closed:
            connection.abort("the connection pool was closed")
        elif self._watch_timer is None and self._loop is not None and self._silence_s < math.inf:
            self._watch(self._loop)

    def idle(self, connection: UpstreamConnection) -> None:
        """Take back a connection that can carry another request."""
        loop = self._loop
        if loop is None or self._closed or len(self._idle) >= self._max_idle:
            connection.close()
            return
        self._idle.append((connection, loop.time()))
        if self._timer is None:
            self._timer = loop.call_later(self._idle_s, self._expire, loop)

    def forget(self, connection: UpstreamConnection) -> None:
        """Take note that a connection is lost."""
        self._all.discard(connection)
        if self._emptied is not None and not self._all:
            self._emptied.set()


def _checked_url(base_url: str) -> SplitResult:
    """Split a URL. Raises ValueError where it cannot be an upstream's."""
    url = urlsplit(base_url)
    if url.scheme not in ("http", "https") or not url.hostname or not base_url.isascii():
        raise ValueError(f"not an http:// or https:// URL: {base_url!r}")
    if url.query or url.fragment or url.username is not None:
        raise ValueError(f"a base URL has no query, fragment or user: {base_url!r}")
    if url.port is not None and url.port == 0:
        raise ValueError(f"not a port to connect to: {base_url!r}")
    return url
