"""The contract of all providers, on real sandboxes of bubblewrap: without an image, and with one."""

from __future__ import annotations

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
from process_bed import make_image, process_bed

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path


@pytest.fixture(scope="session")
def process_image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_image(tmp_path_factory.mktemp("image") / "root")


@pytest.fixture(params=["host", "image"])
async def subject(request: pytest.FixtureRequest, process_image: Path) -> AsyncIterator[Subject]:
    async with process_bed() as bed:

        async def leftovers(installation: str) -> list[str]:
            return bed.leftovers(installation)

        yield Subject(
            name="process",
            endpoint="",
            installation=bed.installation,
            provider=bed.provider,
            open_provider=bed.another,
            kill=bed.kill,
            leftovers=leftovers,
            spec={"image": str(process_image)} if request.param == "image" else {},
            missing_image="/no/such/image",
            image_file="etc/marker" if request.param == "image" else None,
        )


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
