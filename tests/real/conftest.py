"""A real vLLM for the tests in this directory: one for the whole session, because it takes a while to start."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import httpx
import pytest

from benchmarks.testbed import Layout, RealVllm, SetupError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

COMPACT = json.dumps({"backend": "xgrammar", "disable_any_whitespace": True})
"""JSON that an engine is made to answer with ends, whatever the model likes: blanks could go on for ever."""


@pytest.fixture(scope="session")
def real_vllm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealVllm]:
    """A running vLLM with a KV pool of 16,384 tokens. Tests that kill it start it again.

    Where the testbed is absent the test fails: a skipped test would look like a passed one.
    """
    try:
        Layout.default().require()
    except SetupError as error:
        pytest.fail(str(error), pytrace=False)
    log = tmp_path_factory.mktemp("real") / "vllm.log"
    with RealVllm(eager=True, log=log, extra=("--structured-outputs-config", COMPACT)) as engine:
        yield engine


@pytest.fixture
async def real_client(real_vllm: RealVllm) -> AsyncIterator[httpx.AsyncClient]:
    """A client of the engine itself, whose prefix cache is empty at first."""
    real_vllm.reset_prefix_cache()
    async with httpx.AsyncClient(base_url=real_vllm.url, timeout=300) as client:
        yield client
