"""A real server with real sandboxes, in front of a scripted engine; and a look behind its back."""

from __future__ import annotations

import asyncio
import contextlib
import json
import shutil
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import httpx
from process_bed import Bed
from scripted_engine import ScriptedEngine
from server_tools import CHAT, HANG_S, check_error, messages, soon

from thunderagent_core.config import ServerConfig
from thunderagent_core.environments.base import Place
from thunderagent_core.server.environments import Environments
from thunderagent_core.server.serve import running

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

    from thunderagent_core.environments.manager.manager import Manager
    from thunderagent_core.server.serve import Server

__all__ = ["CHAT", "HANG_S", "Served", "Serving", "check_error", "eventually", "messages", "serving", "soon"]


async def eventually(look: Callable[[], Any]) -> None:
    """Wait until an async condition holds."""
    async with asyncio.timeout(HANG_S):
        while not await look():
            await asyncio.sleep(0.02)


@dataclass
class Served:
    """A running server, a client for it, and its engine."""

    server: Server
    client: httpx.AsyncClient
    engine: ScriptedEngine
    state: Path

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server.port}"

    @property
    def environments(self) -> Environments:
        joins = (getattr(listener, "__self__", None) for listener in self.server.runtime.listeners)
        return next(join for join in joins if isinstance(join, Environments))

    @property
    def manager(self) -> Manager:
        return self.environments.manager

    @property
    def installation(self) -> str:
        return self.manager._kit.ledger.installation

    @property
    def bed(self) -> Bed:
        """Sandboxes of this installation, without the server."""
        bed = Bed(root=self.state / "sandboxes", installation=self.installation)
        bed.opened.clear()
        return bed

    def place(self, view: dict[str, Any]) -> Place:
        return Place("", f"thunder-{self.installation}-{view['id']}")

    def directory(self, view: dict[str, Any]) -> Path:
        return self.state / "sandboxes" / "environments" / self.place(view).handle

    # Requests

    async def get(self, path: str) -> Any:
        response = await self.client.get(path)
        assert response.status_code == 200, response.text
        return response.json()

    async def post(self, path: str, **body: Any) -> Any:
        response = await self.client.post(path, json=body)
        assert response.is_success, response.text
        return response.json()

    async def register(self, program_id: str, *specs: dict[str, Any], **fields: Any) -> httpx.Response:
        body = {"program_id": program_id, "environments": list(specs), **fields}
        return await self.client.post("/programs", json=body)

    async def chat(self, program_id: str | None, text: str = "hello", **fields: Any) -> httpx.Response:
        body = messages(text, **fields)
        if program_id is not None:
            body["program_id"] = program_id
        return await self.client.post(CHAT, json=body)

    async def sh(self, path: str, command: str | list[str], **fields: Any) -> str:
        """Run a command that must succeed, and return what it printed."""
        result = await self.post(f"{path}/exec", command=command, **fields)
        assert result["exit_code"] == 0, result
        return str(result["stdout"])

    async def release(self, program_id: str) -> httpx.Response:
        return await self.client.post("/programs/release", json={"program_id": program_id})

    async def states(self, program_id: str) -> dict[str, str]:
        views = (await self.get(f"/programs/{program_id}/environments"))["environments"]
        return {view["name"]: view["state"] for view in views}

    async def view(self, program_id: str, name: str) -> dict[str, Any]:
        return dict(await self.get(f"/programs/{program_id}/environments/{name}"))

    async def until(self, program_id: str, name: str, *states: str, wake: bool = False) -> dict[str, Any]:
        """Wait until an environment is in one of the states; ``wake``: have it made."""
        path = f"/programs/{program_id}/environments/{name}"
        if wake:
            await self.get(f"{path}?wait_s=60")

        async def there() -> bool:
            return (await self.get(path))["state"] in states

        await eventually(there)
        return await self.view(program_id, name)

    async def metrics(self) -> dict[str, float]:
        lines = (await self.client.get("/metrics")).text.splitlines()
        pairs = (line.rpartition(" ") for line in lines if not line.startswith("#"))
        return {name: float(value) for name, _, value in pairs}

    # Behind its back

    async def nothing_left(self) -> None:
        """Wait until nothing of this installation is there."""

        async def empty() -> bool:
            return (await self.get("/environments"))["environments"] == [] and self.bed.leftovers() == []

        await eventually(empty)

    async def destroy(self, view: dict[str, Any]) -> None:
        """Remove an environment with all its files, as somebody else might."""
        bed = self.bed
        other = bed.another()
        try:
            await other.destroy(self.place(view))
        finally:
            await other.aclose()


@dataclass
class Serving:
    """The servers of one test, one after another on the same state directory or side by side on several."""

    state: Path
    stack: contextlib.AsyncExitStack
    states: set[Path] = field(default_factory=set)
    servers: list[tuple[Served, contextlib.AsyncExitStack]] = field(default_factory=list)

    async def engine(self, **fields: Any) -> ScriptedEngine:
        engine = ScriptedEngine(**fields)
        await engine.start()
        self.stack.push_async_callback(engine.stop)
        return engine

    def config(self, engine: ScriptedEngine, **settings: Any) -> ServerConfig:
        defaults = {
            "port": 0,
            "backends": (engine.url,),
            "environments": "process",
            "state_dir": self.state,
            "poll_interval_s": 0.05,
            "poll_timeout_s": HANG_S,
            "shutdown_grace_s": 5.0,
            "growth_reserve_tokens": 0,
            "environment_freeze_after_s": 0.0,
            "environment_disk_floor_bytes": 0,
            "environment_reconcile_interval_s": 0.5,
        }
        return ServerConfig(**{**defaults, **settings})

    async def start(self, engine: ScriptedEngine | None = None, **settings: Any) -> Served:
        engine = engine or await self.engine()
        config = self.config(engine, **settings)
        stack = contextlib.AsyncExitStack()
        server = await stack.enter_async_context(running(config))
        url = f"http://127.0.0.1:{server.port}"
        client = await stack.enter_async_context(httpx.AsyncClient(base_url=url, timeout=HANG_S))
        served = Served(server, client, engine, config.state_dir or self.state)
        self.servers.append((served, stack))
        self.states.add(served.state)
        return served

    async def stop(self, served: Served) -> None:
        """Stop a server as SIGTERM does; its environments live on."""
        served.server.runtime.scheduler.check()
        [stack] = [stack for one, stack in self.servers if one is served]
        self.servers = [(one, held) for one, held in self.servers if one is not served]
        await stack.aclose()

    async def aclose(self) -> None:
        for served, _ in list(self.servers):
            await self.stop(served)
        for state in self.states:
            await _purge(state)


async def _purge(state: Path) -> None:
    """Take back what live programs of a test still own; then nothing may be left."""
    root = state / "sandboxes"
    if not root.exists():  # not of bubblewrap
        return
    names = {path.name.split("-")[1] for path in root.glob("*/thunder-*")}
    for installation in names:
        bed = Bed(root=root, installation=installation)
        try:
            await bed.reclaim()
        finally:
            await bed.close()
        assert bed.leftovers() == []
    shutil.rmtree(state)


@contextlib.asynccontextmanager
async def serving(state: Path) -> AsyncIterator[Serving]:
    async with contextlib.AsyncExitStack() as stack:
        bench = Serving(state, stack)
        try:
            yield bench
        finally:
            await bench.aclose()


def events(text: str) -> list[tuple[str, dict[str, Any]]]:
    """Return server-sent events with their names."""
    found = []
    for block in text.split("\n\n"):
        fields = dict(line.split(": ", 1) for line in block.splitlines() if ": " in line)
        if "data" in fields:
            found.append((fields.get("event", ""), json.loads(fields["data"])))
    return found
