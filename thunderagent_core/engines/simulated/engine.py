"""The simulated engine as a server: in a process of its own, or inside a test."""

from __future__ import annotations

import asyncio
import signal
import sys
from typing import TYPE_CHECKING, Final, Self

import msgspec

from thunderagent_core.engines.simulated.api.errors import ApiError
from thunderagent_core.engines.simulated.faults import FaultSwitch
from thunderagent_core.engines.simulated.generation import SIMULATED, Generation
from thunderagent_core.engines.simulated.model import EngineModel
from thunderagent_core.engines.simulated.publisher import KvEventPublisher
from thunderagent_core.engines.simulated.routes import LIKE_VLLM, Routes
from thunderagent_core.engines.simulated.runner import EngineRunner
from thunderagent_core.engines.simulated.script import Script, load_script
from thunderagent_core.transport.server import HttpServer

if TYPE_CHECKING:
    from types import TracebackType

    from thunderagent_core.engines.simulated.settings import EngineSettings
    from thunderagent_core.transport.messages import Headers

STOP_GRACE_S: Final = 5.0
"""How long requests under way may take when the process is asked to end."""


class SimulatedEngine:
    """An engine that listens. Use it as an asynchronous context manager, or call ``start`` and ``stop``.

    Args:
        settings: all options; ``port=0`` for a free port.
        script: replies; instead of the file that the settings may name.

    Raises:
        ScriptError: the script file cannot be read.
    """

    def __init__(self, settings: EngineSettings, script: Script | None = None) -> None:
        self.settings = settings
        self.faults = FaultSwitch()
        self.publisher = KvEventPublisher(settings)
        self.model = EngineModel(settings.limits, settings.coefficients, record_events=self.publisher.enabled)
        self._runner = EngineRunner(self.model, speed=settings.speed, publish=self.publisher.publish)
        if script is None:
            script = load_script(settings.script) if settings.script is not None else Script()
        generation = Generation(self._runner, settings, self.faults, script)
        routes = Routes(settings, self._runner, generation, self.publisher, self.faults)
        self._server = HttpServer(routes, max_body_bytes=settings.max_body_bytes, refuse=_refuse)
        self._port = settings.port

    @property
    def url(self) -> str:
        """Base URL without a path or a slash at the end."""
        host = self.settings.host
        return f"http://{f'[{host}]' if ':' in host else host}:{self._port}"

    async def start(self) -> None:
        """Begin to listen. Raises OSError, or zmq.ZMQError for KV events, where an address is not available."""
        try:
            self.publisher.start()
            self._runner.start()
            await self._server.start(self.settings.host, self.settings.port)
        except BaseException:
            await self._close()
            raise
        self._port = self._server.port

    async def stop(self, grace_s: float = 0.0) -> None:
        """Stop listening, give requests under way ``grace_s`` seconds, and drop the rest; 0 looks like a crash."""
        await self._server.stop(grace_s)
        await self._close()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    async def _close(self) -> None:
        await self._runner.aclose()
        await self.publisher.aclose()


def run(settings: EngineSettings) -> None:
    """Serve until interrupted or terminated, and say on standard output that this engine is simulated.

    Raises:
        OSError: the address is not available.
        ScriptError: the script file cannot be read.
    """
    asyncio.run(_serve(settings))


async def _serve(settings: EngineSettings) -> None:
    ended = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, ended.set)
    engine = SimulatedEngine(settings)
    await engine.start()
    try:
        sys.stdout.write(banner(engine))
        sys.stdout.flush()
        await ended.wait()
    finally:
        await engine.stop(STOP_GRACE_S)


def banner(engine: SimulatedEngine) -> str:
    """Return what is printed at the start."""
    settings, limits = engine.settings, engine.model.limits
    events = settings.kv_events_endpoint or "off"
    return (
        f"SIMULATED engine (no model runs here), in the manner of vLLM {LIKE_VLLM}: {engine.url}\n"
        f"  model {settings.model}, preset {settings.preset}, speed {settings.speed:g}\n"
        f"  KV pool {limits.num_blocks} blocks of {limits.block_tokens} tokens, context {limits.max_model_len} tokens\n"
        f"  KV events {events}\n"
    )


def _refuse(status: int, message: str) -> tuple[Headers, bytes]:
    body = msgspec.json.encode(ApiError(status, message).openai())
    return [(b"content-type", b"application/json"), SIMULATED], body
