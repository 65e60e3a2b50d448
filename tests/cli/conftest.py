from __future__ import annotations

import pytest
from cli_tools import LISTENS, SIMULATES, running


@pytest.fixture(scope="session")
def engine_url():
    """A simulated engine, as a process of its own."""
    with running("engine", "--port", "0", "--speed", "50") as engine:
        yield engine.wait_for(SIMULATES)


@pytest.fixture(scope="session")
def server_url(engine_url):
    """A server in front of it."""
    with running("serve", "--port", "0", "--backend", engine_url, "--startup-wait-s", "120") as server:
        yield server.wait_for(LISTENS)
