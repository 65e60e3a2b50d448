"""A bare relay as a raw ASGI application. RELAY_BACKEND is the engine's URL, RELAY_CLIENT ``aiohttp`` or ``ours``."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    Fields = list[tuple[bytes, bytes]]
    Receive = Callable[[], Awaitable[dict[str, Any]]]
    Send = Callable[[dict[str, Any]], Awaitable[None]]

_DROPPED = frozenset((b"host", b"transfer-encoding", b"connection", b"date"))


class OverAiohttp:
    """Asks the engine with aiohttp's client."""

    def __init__(self, backend: str) -> None:
        import aiohttp  # noqa: PLC0415 - only where it is measured

        self._backend = backend
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0),
            timeout=aiohttp.ClientTimeout(total=None),
            auto_decompress=False,
        )

    async def ask(self, method: str, path: str, fields: Fields, body: bytes) -> tuple[int, Fields, Any]:
        """Return status, headers and what yields the body."""
        headers = [(name.decode(), value.decode()) for name, value in fields]
        response = await self._session.request(method, self._backend + path, data=body, headers=headers)
        return response.status, list(response.raw_headers), response.content.iter_any()


class OverOurs:
    """Asks the engine with our connection pool."""

    def __init__(self, backend: str) -> None:
        from thunderagent_core.transport.client import ConnectionPool  # noqa: PLC0415 - only where measured

        self._pool = ConnectionPool(backend)

    async def ask(self, method: str, path: str, fields: Fields, body: bytes) -> tuple[int, Fields, Any]:
        """Return status, headers and what yields the body."""
        response = await self._pool.request(method, path, fields, body)
        return response.status, response.headers, response


class Relay:
    """Passes each request on and its answer back."""

    def __init__(self) -> None:
        self._client: OverAiohttp | OverOurs | None = None

    async def __call__(self, scope: dict[str, Any], receive: Receive, send: Send) -> None:
        """Answer one request, or the server's start and end."""
        if scope["type"] == "lifespan":
            await _live(receive, send)
            return
        if self._client is None:
            kind = OverAiohttp if os.environ["RELAY_CLIENT"] == "aiohttp" else OverOurs
            self._client = kind(os.environ["RELAY_BACKEND"])
        fields = [field for field in scope["headers"] if field[0] not in _DROPPED | {b"content-length"}]
        body = await _body(receive)
        status, headers, pieces = await self._client.ask(scope["method"], scope["path"], fields, body)
        kept = [(name, value) for name, value in headers if name.lower() not in _DROPPED]
        await send({"type": "http.response.start", "status": status, "headers": kept})
        await _pass_on(pieces, send, whole=any(name.lower() == b"content-length" for name, _ in kept))


async def _pass_on(pieces: AsyncIterator[bytes], send: Send, *, whole: bool) -> None:
    if whole:
        body = b"".join([piece async for piece in pieces])
        await send({"type": "http.response.body", "body": body})
        return
    async for piece in pieces:
        await send({"type": "http.response.body", "body": piece, "more_body": True})
    await send({"type": "http.response.body", "body": b""})


async def _body(receive: Receive) -> bytes:
    parts = []
    while True:
        message = await receive()
        parts.append(message.get("body", b""))
        if not message.get("more_body"):
            return b"".join(parts)


async def _live(receive: Receive, send: Send) -> None:
    await receive()
    await send({"type": "lifespan.startup.complete"})
    await receive()
    await send({"type": "lifespan.shutdown.complete"})


app = Relay()
