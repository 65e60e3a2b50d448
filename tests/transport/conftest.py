from __future__ import annotations

import asyncio
import gc

import pytest
import uvloop
from transport_tools import RawClient, Upstream

from thunderagent_core.transport.client import ConnectionPool
from thunderagent_core.transport.server import HttpServer


def pytest_asyncio_loop_factories(config, item):
    """Run each asynchronous test on both event loops."""
    return {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}


@pytest.fixture
async def no_leaks():
    """Fail where a test leaves a task or, by way of ResourceWarning, a socket behind."""
    yield
    await asyncio.sleep(0)
    left = asyncio.all_tasks() - {asyncio.current_task()}
    assert not left
    gc.collect()


@pytest.fixture
async def serve(no_leaks):
    """Start servers: ``await serve(handler, **settings)``. All must be empty once stopped."""
    servers = []

    async def start(handler, **settings):
        server = HttpServer(handler, **settings)
        await server.start("127.0.0.1", 0)
        servers.append(server)
        return server

    yield start
    for server in servers:
        await server.stop(0.0)
        assert server.connections == 0


@pytest.fixture
async def connect(no_leaks):
    """Connect plain sockets: ``await connect(server)``."""
    clients = []

    async def open_client(server, **options):
        client = await RawClient.connect(server.port, **options)
        clients.append(client)
        return client

    yield open_client
    for client in clients:
        await client.close()


@pytest.fixture
async def upstream(no_leaks):
    """Start scripted upstreams: ``await upstream(script)``."""
    started = []

    async def start(script, **options):
        new = Upstream(script)
        await new.start(**options)
        started.append(new)
        return new

    yield start
    for each in started:
        await each.stop()


@pytest.fixture
async def pool(upstream):
    """Make pools: ``pool(upstream, **settings)``."""
    pools = []

    def make(target, *, scheme="http", prefix="", **settings):
        new = ConnectionPool(f"{scheme}://127.0.0.1:{target.port}{prefix}", **settings)
        pools.append(new)
        return new

    yield make
    for each in pools:
        await each.aclose()
