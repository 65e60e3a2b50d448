"""Our server in front of a real engine, and a client that knows its routes."""

from __future__ import annotations

import asyncio
import json
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import httpx

from thunderagent_core.config import ServerConfig
from thunderagent_core.server.serve import running

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from thunderagent_core.server.serve import Server

PATIENT_S = 120.0
"""Bounds what must happen in the end; only a failing test, or one on a very slow machine, waits as long."""


@dataclass
class Served:
    """A running server and a client of it."""

    server: Server
    client: httpx.AsyncClient

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server.port}"

    async def program(self, program_id: str) -> dict[str, Any]:
        answer = await self.client.get(f"/programs/{program_id}")
        return answer.raise_for_status().json()

    async def backend(self) -> dict[str, Any]:
        (backend,) = (await self.client.get("/backends")).raise_for_status().json()["backends"]
        return backend

    async def until(self, look: Callable[[], Any], condition: Callable[[Any], bool]) -> Any:
        """Look again and again until the condition holds; return what was seen then."""
        async with asyncio.timeout(PATIENT_S):
            while not condition(seen := await look()):
                await asyncio.sleep(0.05)
        return seen


@asynccontextmanager
async def served(url: str, **settings: Any) -> AsyncIterator[Served]:
    """Run a server in front of an engine; in the end nothing may be open and the scheduler must be consistent."""
    patient = {"poll_interval_s": 0.2, "poll_timeout_s": PATIENT_S, "startup_wait_s": PATIENT_S}
    async with running(ServerConfig(backends=(url,), port=0, shutdown_grace_s=5.0, **patient, **settings)) as server:
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{server.port}", timeout=600) as client:
            yield Served(server, client)
        async with asyncio.timeout(PATIENT_S):
            while server.runtime.scheduler.open_requests:
                await asyncio.sleep(0.01)
        server.runtime.scheduler.check()


def events_of(text: str) -> list[Any]:
    """Return the data of a stream's events; ``[DONE]`` as itself."""
    lines = [line.removeprefix("data:").strip() for line in text.splitlines() if line.startswith("data:")]
    return [line if line == "[DONE]" else json.loads(line) for line in lines]
