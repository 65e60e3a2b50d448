"""A scripted environment that runs, for tests that need no more."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from thunderagent_core.environments.base import LABEL_ENVIRONMENT, LABEL_INSTALLATION, Place, Plan
from thunderagent_core.environments.scripted.provider import ScriptedProvider
from thunderagent_core.environments.scripted.world import ScriptedWorld
from thunderagent_core.environments.spec import EnvironmentSpec

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

INSTALLATION = "inst"
PLACE = Place("", f"thunder-{INSTALLATION}-e1")


def plan(
    name: str = "e1", *, endpoint: str = "", snapshot: str | None = None, host_ports: Any = None, **spec: Any
) -> Plan:
    return Plan(
        place=Place(endpoint, f"thunder-{INSTALLATION}-{name}"),
        labels={LABEL_INSTALLATION: INSTALLATION, LABEL_ENVIRONMENT: name},
        spec=EnvironmentSpec(**{"name": "shell", **spec}),
        snapshot=snapshot,
        ports=host_ports or {},
    )


@asynccontextmanager
async def scripted_environment(**options: Any) -> AsyncIterator[ScriptedProvider]:
    world = ScriptedWorld(**options)
    provider = ScriptedProvider(world, installation=INSTALLATION)
    await provider.create(plan())
    try:
        yield provider
    finally:
        await provider.aclose()
        await world.aclose()


async def until(condition: Callable[[], bool]) -> None:
    """Wait until it holds; fail after a long time."""
    async with asyncio.timeout(60):
        while not condition():
            await asyncio.sleep(0.005)
