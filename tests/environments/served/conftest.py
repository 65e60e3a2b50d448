from __future__ import annotations

import sys
from pathlib import Path

import pytest
import uvloop

sys.path.append(str(Path(__file__).parents[2] / "server"))  # its scripted engine serves here as well

from environment_server import Serving, serving


def pytest_asyncio_loop_factories(config, item):
    """Run on the event loop that ``thunderagent serve`` runs on."""
    return {"uvloop": uvloop.new_event_loop}


@pytest.fixture
async def place(tmp_path):
    """Where servers, engines and the state directory of one test are; nothing of them may remain."""
    async with serving(tmp_path / "state") as bench:
        yield bench


@pytest.fixture
async def served(place: Serving):
    """A server with sandboxes of bubblewrap in front of one engine."""
    return await place.start()


@pytest.fixture
async def shell(served):
    """A program ``p`` with one environment ``shell``, which is ready."""
    await served.register("p", {"name": "shell"})
    await served.until("p", "shell", "ready", "in_use", wake=True)
    return "/programs/p/environments/shell"
