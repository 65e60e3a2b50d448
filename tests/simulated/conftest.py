"""Engines for tests: fast enough that time never decides, small enough that the pool matters."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import httpx
import pytest
from simulated_helpers import SPEED, make_model

from thunderagent_core.engines.simulated.engine import SimulatedEngine
from thunderagent_core.engines.simulated.settings import EngineSettings

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from thunderagent_core.engines.simulated.model import EngineModel


@pytest.fixture
def model() -> EngineModel:
    """32 usable blocks of 4 tokens."""
    return make_model()


@pytest.fixture
def settings() -> Callable[..., EngineSettings]:
    def make(**changes: Any) -> EngineSettings:
        return EngineSettings(**{"port": 0, "speed": SPEED, "model": "sim", **changes})

    return make


@pytest.fixture
async def engine(settings: Callable[..., EngineSettings]) -> AsyncIterator[SimulatedEngine]:
    async with SimulatedEngine(settings()) as engine:
        yield engine
    engine.model.check()
    assert engine.model.num_running == engine.model.num_waiting == 0


@pytest.fixture
async def client(engine: SimulatedEngine) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=engine.url, timeout=60) as client:
        yield client
