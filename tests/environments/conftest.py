"""What the tests of environments share."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING

import pytest
from docker_testbed import DockerBed, Engine, docker_engine, import_image

from thunderagent_core.environments.docker.provider import DockerProvider

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator


@pytest.fixture(scope="session")
def docker_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a real Docker daemon."""
    with docker_engine(tmp_path_factory.mktemp("dockerd")) as url:
        yield url


@pytest.fixture(scope="session")
def docker_image(docker_url: str) -> str:
    """An image on that daemon."""
    return import_image(Engine(docker_url))


@pytest.fixture
async def docker_bed(docker_url: str, docker_image: str) -> AsyncIterator[DockerBed]:
    """An installation of its own, of which nothing may remain."""
    installation = f"t{uuid.uuid4().hex[:10]}"
    provider = DockerProvider(installation=installation, endpoints=(docker_url,))
    bed = DockerBed(provider, Engine(docker_url), docker_image, installation)
    yield bed
    try:
        await bed.reclaim_all()
        assert bed.engine.leftovers(installation) == []
    finally:
        await provider.aclose()
        bed.engine.purge(installation)
