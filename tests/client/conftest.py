from __future__ import annotations

import pytest
from client_fakes import FakeServer

from thunderagent_core.client import AsyncClient, Client, RetryPolicy

NO_JITTER = RetryPolicy(jitter=lambda: 0.0)


@pytest.fixture
def server():
    with FakeServer() as server:
        yield server


@pytest.fixture
def waits():
    """The waits between attempts, in seconds, of which none is really waited."""
    return []


@pytest.fixture
def client(server, waits):
    with Client(server.url, retry=NO_JITTER, sleep=waits.append) as client:
        yield client


@pytest.fixture
async def aclient(server, waits):
    async def sleep(seconds):
        waits.append(seconds)

    async with AsyncClient(server.url, retry=NO_JITTER, sleep=sleep) as client:
        yield client
