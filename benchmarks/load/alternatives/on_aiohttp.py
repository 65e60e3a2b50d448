"""A bare relay of aiohttp's server and aiohttp's client, on uvloop."""

from __future__ import annotations

import asyncio
import sys

import aiohttp
import uvloop
from aiohttp import web

_DROPPED = frozenset(("host", "content-length", "transfer-encoding", "connection", "date"))


class Relay:
    """Passes each request on and its answer back."""

    def __init__(self, backend: str) -> None:
        self._backend = backend
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0),
            timeout=aiohttp.ClientTimeout(total=None),
            auto_decompress=False,
        )

    async def __call__(self, request: web.Request) -> web.StreamResponse:
        """Answer one request."""
        body = await request.read()
        fields = [(name, value) for name, value in request.headers.items() if name.lower() not in _DROPPED]
        async with self._session.request(
            request.method, self._backend + request.path_qs, data=body, headers=fields
        ) as upstream:
            headers = {name: value for name, value in upstream.headers.items() if name.lower() not in _DROPPED}
            if "content-length" in upstream.headers:
                return web.Response(status=upstream.status, headers=headers, body=await upstream.read())
            answer = web.StreamResponse(status=upstream.status, headers=headers)
            await answer.prepare(request)
            async for piece in upstream.content.iter_any():
                await answer.write(piece)
            await answer.write_eof()
            return answer


async def serve(backend: str, port: int) -> None:
    """Relay until the process is ended."""
    app = web.Application(client_max_size=1 << 25)
    app.router.add_route("*", "/{path:.*}", Relay(backend))
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    await asyncio.Event().wait()


if __name__ == "__main__":
    uvloop.run(serve(sys.argv[1], int(sys.argv[2])))
