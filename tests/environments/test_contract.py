"""One contract for all providers: see ``contract.py``."""

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

from thunderagent_core.environments.base import LABEL_INSTALLATION
from thunderagent_core.environments.scripted.provider import ScriptedProvider
from thunderagent_core.environments.scripted.world import ScriptedWorld

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


def scripted_subject(world: ScriptedWorld) -> Subject:
    async def leftovers(installation: str) -> list[str]:
        held = [(place.handle, box.labels) for place, box in world.boxes.items()]
        held += [(name, kept.labels) for (_, name), kept in world.snapshots.items()]
        return [name for name, labels in held if labels[LABEL_INSTALLATION] == installation]

    installation = f"t{uuid.uuid4().hex[:10]}"
    return Subject(
        name="scripted",
        endpoint="",
        installation=installation,
        provider=ScriptedProvider(world, installation=installation),
        open_provider=lambda other: ScriptedProvider(world, installation=other),
        kill=world.kill,
        leftovers=leftovers,
        spec={},
        missing_image="no-such-image",
    )


@pytest.fixture(params=["scripted"])
async def subject(request: pytest.FixtureRequest) -> AsyncIterator[Subject]:
    world = ScriptedWorld(images=frozenset({None}))
    subject = scripted_subject(world)
    try:
        yield subject
        await subject.reclaim_all()
        assert await subject.leftovers(subject.installation) == []
    finally:
        await subject.close()
        await world.aclose()


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
