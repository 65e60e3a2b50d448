"""The contract of all providers, on a real Docker engine."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING

import pytest
from contract import Subject
from contract_exec import ExecContract, FilesContract, TroubleContract
from contract_lifecycle import (
    CreateContract,
    DestroyContract,
    FreezeContract,
    LookContract,
    SnapshotContract,
    SpawnContract,
    StartContract,
    SurveyContract,
)
from docker_registry import registry
from docker_testbed import Engine

from thunderagent_core.environments.docker.provider import DockerProvider

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from thunderagent_core.environments.base import Place

pytestmark = pytest.mark.real_docker


@pytest.fixture(scope="module")
def missing_image() -> Iterator[str]:
    """An image of which a registry says that it does not exist."""
    with registry(b"", "some/image") as reference:
        yield reference.replace("some/image", "no/such/image")


@pytest.fixture
async def subject(docker_url: str, docker_image: str, missing_image: str) -> AsyncIterator[Subject]:
    engine, installation = Engine(docker_url), f"t{uuid.uuid4().hex[:10]}"

    def open_provider(other: str) -> DockerProvider:
        return DockerProvider(installation=other, endpoints=(docker_url,))

    async def kill(place: Place) -> None:
        engine.request("POST", f"/containers/{place.handle}/kill")

    async def leftovers(other: str) -> list[str]:
        return [" ".join(left) for left in engine.leftovers(other)]

    subject = Subject(
        name="docker",
        endpoint=docker_url,
        installation=installation,
        provider=open_provider(installation),
        open_provider=open_provider,
        kill=kill,
        leftovers=leftovers,
        spec={"image": docker_image, "memory_bytes": 128 << 20},
        missing_image=missing_image,
        image_file="etc/passwd",
    )
    try:
        yield subject
        await subject.reclaim_all()
        assert await subject.leftovers(installation) == []
    finally:
        await subject.close()
        engine.purge(installation)


class TestCreate(CreateContract):
    pass


class TestDestroy(DestroyContract):
    pass


class TestLook(LookContract):
    pass


class TestStart(StartContract):
    pass


class TestFreeze(FreezeContract):
    pass


class TestSpawn(SpawnContract):
    pass


class TestSurvey(SurveyContract):
    pass


class TestSnapshot(SnapshotContract):
    pass


class TestExec(ExecContract):
    pass


class TestTrouble(TroubleContract):
    pass


class TestFiles(FilesContract):
    pass
