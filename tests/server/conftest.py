from __future__ import annotations

import asyncio
import contextlib
from typing import Any

import httpx
import pytest
import uvloop
from scripted_engine import ScriptedEngine
from server_tools import HANG_S, RawClient, Running, audit

from thunderagent_core.config import ServerConfig
from thunderagent_core.server.serve import running


def pytest_asyncio_loop_factories(config, item):
    """Run on the event loop that ``thunderagent serve`` runs on."""
    return {"uvloop": uvloop.new_event_loop}


@pytest.fixture
async def no_leaks():
    """Fail where a test leaves a task behind."""
    yield
    await asyncio.sleep(0)
    left = asyncio.all_tasks() - {asyncio.current_task()}
    assert not left


@pytest.fixture
async def engine_factory(no_leaks):
    """Start scripted engines: ``await engine_factory(**fields)``."""
    engines: list[ScriptedEngine] = []

    async def start(**fields: Any) -> ScriptedEngine:
        engine = ScriptedEngine(**fields)
        await engine.start()
        engines.append(engine)
        return engine

    yield start
    for engine in engines:
        engine.answers_polls.set()
        await engine.stop()


@pytest.fixture
async def engine(engine_factory):
    """One engine with room for 16,384 tokens."""
    return await engine_factory()


@pytest.fixture
async def serve(engine_factory, tmp_path):
    """Start servers in front of engines: ``await serve(engine, …, **settings)``.

    When the test is over nothing may be open, the scheduler must be consistent, and the trace must replay.
    """
    started: list[tuple[Running, dict[str, Any]]] = []
    async with contextlib.AsyncExitStack() as stack:

        async def start(*engines: ScriptedEngine, audited: dict[str, Any] | None = None, **settings: Any) -> Running:
            trace = tmp_path / f"trace-{len(started)}.jsonl"
            config = ServerConfig(
                backends=tuple(engine.url for engine in engines),
                **{
                    "port": 0,
                    "poll_interval_s": 0.05,
                    "poll_timeout_s": HANG_S,
                    "shutdown_grace_s": 5.0,
                    "growth_reserve_tokens": 0,
                    "trace": trace,
                    **settings,
                },
            )
            server = await stack.enter_async_context(running(config))
            url = f"http://127.0.0.1:{server.port}"
            limits = httpx.Limits(max_connections=None, max_keepalive_connections=50)
            client = await stack.enter_async_context(httpx.AsyncClient(base_url=url, timeout=HANG_S, limits=limits))
            run = Running(server, client, trace, server.port)
            started.append((run, audited or {}))
            return run

        yield start
        for run, _ in started:
            await run.idle()
            run.scheduler.check()
    for run, options in started:
        if run.trace.exists():
            audit(run.trace, **options)


@pytest.fixture
async def raw(no_leaks):
    """Connect plain sockets: ``await raw(port)``."""
    clients: list[RawClient] = []

    async def connect(port: int) -> RawClient:
        client = await RawClient.connect(port)
        clients.append(client)
        return client

    yield connect
    for client in clients:
        await client.close()


@pytest.fixture
async def run(engine, serve):
    """A server with something in it that could be changed."""
    run = await serve(engine, max_body_bytes=1_000_000, max_wait_s=20.0)
    assert (await run.chat("bystander")).status_code == 200
    await run.client.post("/programs", json={"program_id": "registered", "group": "g"})
    await run.chat("ended")
    await run.release("ended")
    await run.idle()
    engine.seen.clear()
    return run


@pytest.fixture
async def two(engine_factory):
    """Two engines; the first has more room, so requests go there at first."""
    return await engine_factory(capacity_tokens=32_000), await engine_factory(capacity_tokens=16_000)
