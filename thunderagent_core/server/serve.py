"""Builds the server from its configuration, runs it, and stops it without losing what is in flight."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

from thunderagent_core.engines.discovery import detect
from thunderagent_core.scheduling.policies import make_policy
from thunderagent_core.scheduling.scheduler import Scheduler
from thunderagent_core.server.access import Access
from thunderagent_core.server.app import App
from thunderagent_core.server.environment_door import EnvironmentDoor
from thunderagent_core.server.environment_guard import SpecGuard
from thunderagent_core.server.environment_routes import EnvironmentRoutes
from thunderagent_core.server.errors import protocol_error
from thunderagent_core.server.fleet import Fleet, KnownBackendError, NoCapacityError, PollSettings
from thunderagent_core.server.headers import EngineHeaders
from thunderagent_core.server.metrics import MetricsPage
from thunderagent_core.server.models import ModelList
from thunderagent_core.server.process import StopSignals, allow_many_connections
from thunderagent_core.server.proxy import Proxy
from thunderagent_core.server.routes import Routes
from thunderagent_core.server.runtime import Runtime
from thunderagent_core.server.trace_file import TraceFile
from thunderagent_core.transport.server import HttpServer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

    from thunderagent_core.config import ServerConfig
    from thunderagent_core.engines.base import EngineClient
    from thunderagent_core.server.environments import Environments
    from thunderagent_core.server.fleet import Engine


class ServeError(Exception):
    """The server cannot start; the text is one line that says why."""


class Server:
    """A running server. ``port`` tells where it listens."""

    def __init__(self, http: HttpServer, runtime: Runtime, fleet: Fleet) -> None:
        self.http = http
        self.runtime = runtime
        self.fleet = fleet

    @property
    def port(self) -> int:
        """The TCP port."""
        return self.http.port

    async def stop(self, grace_s: float) -> None:
        """Refuse what is held, give what is in flight ``grace_s`` seconds, then close everything."""
        self.runtime.begin_stop()
        try:
            await self.http.stop(grace_s)
        finally:
            self.runtime.stop()
            await self.fleet.aclose()


@contextlib.asynccontextmanager
async def running(config: ServerConfig) -> AsyncIterator[Server]:
    """Run a server inside an event loop. Raises ServeError where it cannot start."""
    with _open_trace(config) as trace:
        settings = config.scheduler_settings()
        scheduler = Scheduler(make_policy(config.policy, settings), settings)
        runtime = Runtime(scheduler, ended_programs=config.history_programs, trace=trace)
        fleet = Fleet(_detector(config), runtime.post, _polling(config))
        runtime.listeners.add(fleet.heed)
        async with _environments(config, runtime) as environments:
            server = Server(_http(config, runtime, fleet, environments), runtime, fleet)
            try:
                await _start(config, server)
                yield server
            finally:
                await server.stop(config.shutdown_grace_s)


@contextlib.asynccontextmanager
async def _environments(config: ServerConfig, runtime: Runtime) -> AsyncIterator[Environments | None]:
    """Run tool environments where they are wanted; only then is what they need loaded."""
    if config.environments == "off":
        yield None
        return
    from thunderagent_core.server.environment_setup import EnvironmentsError, managed  # noqa: PLC0415 - see above

    try:
        async with managed(config, runtime) as environments:
            yield environments
    except EnvironmentsError as error:
        raise ServeError(str(error)) from error


def serve(config: ServerConfig, announce: Callable[[str], None] = print) -> None:
    """Run a server until SIGINT or SIGTERM; a second one ends it at once. Raises ServeError where it cannot start."""
    allow_many_connections()
    try:
        import uvloop  # noqa: PLC0415 - only a running server needs it, and not every platform has it
    except ImportError:
        asyncio.run(_serve(config, announce))
    else:
        uvloop.run(_serve(config, announce))


async def _serve(config: ServerConfig, announce: Callable[[str], None]) -> None:
    with StopSignals() as signals:
        async with running(config) as server:
            host = f"[{config.host}]" if ":" in config.host else config.host
            announce(f"ThunderAgent listens on http://{host}:{server.port} ({config.policy} policy)")
            for engine in server.fleet.engines.values():
                announce(f"  {engine.url}: {engine.problem or 'ready'}")
            await signals.first()
            announce(f"stopping: requests in flight have {config.shutdown_grace_s:g} s to finish")


async def _start(config: ServerConfig, server: Server) -> None:
    try:
        engines = [server.fleet.add(url) for url in config.backends]
        await _first_looks(config, server.fleet, engines)
    except (ValueError, KnownBackendError, NoCapacityError) as error:
        raise ServeError(str(error)) from error
    try:
        await server.http.start(config.host, config.port)
    except OSError as error:
        raise ServeError(f"cannot listen on {config.host}:{config.port}: {error.strerror or error}") from error


async def _first_looks(config: ServerConfig, fleet: Fleet, engines: list[Engine]) -> None:
    """Ask all engines at the same time until one can be used or the wait is over; then go on watching them."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + config.startup_wait_s
    while True:
        for outcome in await asyncio.gather(*map(fleet.first_look, engines), return_exceptions=True):
            if outcome is not None:
                raise outcome
        if any(engine.problem is None for engine in engines) or loop.time() >= deadline:
            break
        await asyncio.sleep(min(config.poll_interval_s, max(0.0, deadline - loop.time())))
    for engine in engines:
        fleet.watch(engine)


def _polling(config: ServerConfig) -> PollSettings:
    return PollSettings(
        config.poll_interval_s, config.lost_after_polls, config.capacity_tokens, config.response_timeout_s
    )


def _http(config: ServerConfig, runtime: Runtime, fleet: Fleet, environments: Environments | None) -> HttpServer:
    door = EnvironmentDoor(environments, SpecGuard(config.environment_mount_roots))
    manager = None if environments is None else environments.manager
    access = Access(config.api_keys, config.host)
    headers = EngineHeaders(access, config.backend_api_key)
    routes = Routes(runtime, fleet, MetricsPage(runtime, fleet, manager), door)
    proxy = Proxy(runtime, fleet, headers, door)
    app = App(proxy, routes, EnvironmentRoutes(runtime, door), ModelList(fleet, headers), access)
    screen = access.screen if access.keyed else None
    return HttpServer(app, max_body_bytes=config.max_body_bytes, refuse=protocol_error, screen=screen)


def _detector(config: ServerConfig) -> Callable[[str], Awaitable[EngineClient]]:
    async def find(url: str) -> EngineClient:
        return await detect(url, timeout_s=config.poll_timeout_s, api_key=config.backend_api_key)

    return find


@contextlib.contextmanager
def _open_trace(config: ServerConfig) -> Iterator[TraceFile | None]:
    if config.trace is None:
        yield None
        return
    try:
        trace = TraceFile(config.trace)
    except OSError as error:
        raise ServeError(f"cannot write the trace {config.trace}: {error.strerror}") from error
    with contextlib.closing(trace):
        yield trace
