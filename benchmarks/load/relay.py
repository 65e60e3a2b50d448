"""The bare relay: our transport with nothing between server and client. What it passes is the ceiling."""

from __future__ import annotations

import argparse
import asyncio
import signal
from typing import TYPE_CHECKING

import uvloop

from thunderagent_core.transport.client import ConnectionPool
from thunderagent_core.transport.headers import end_to_end
from thunderagent_core.transport.server import HttpServer

if TYPE_CHECKING:
    from thunderagent_core.transport.messages import Request, Responder


class Relay:
    """Passes each request on and its answer back."""

    def __init__(self, backend: str) -> None:
        self.pool = ConnectionPool(backend)

    async def __call__(self, request: Request, responder: Responder) -> None:
        """Answer one request."""
        target = f"{request.path}?{request.query}" if request.query else request.path
        response = await self.pool.request(request.method, target, end_to_end(request.headers), request.body)
        try:
            headers = end_to_end(response.headers)
            if any(name == b"content-length" for name, _ in response.headers):
                responder.send(response.status, headers, await response.read())
                return
            responder.start(response.status, headers)
            async for piece in response:
                responder.write(piece)
                await responder.drain()
            responder.finish()
        finally:
            response.close()


async def serve(backend: str, port: int) -> None:
    """Relay until the process is told to end."""
    relay = Relay(backend)
    server = HttpServer(relay)
    await server.start("127.0.0.1", port)
    ended = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, ended.set)
    await ended.wait()
    await server.stop(1.0)
    await relay.pool.aclose()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--backend", required=True, help="URL of the engine")
    parser.add_argument("--port", type=int, required=True, help="port to listen on")
    arguments = parser.parse_args()
    uvloop.run(serve(arguments.backend, arguments.port))
