"""One arm: engine, server and programs, watched from outside, with nothing left behind."""

from __future__ import annotations

import asyncio
import contextlib
import tempfile
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

from benchmarks.sandboxes.load import Load, ProgramRecord, Programs
from benchmarks.sandboxes.witness import DockerWitness, ProcessWitness, installation_of
from thunderagent_core.client import AsyncClient
from thunderagent_core.demo.children import child

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from benchmarks.sandboxes.witness import Witness
    from benchmarks.testbed.docker_engine import Engine

OURS: Final = "ours"
KEPT: Final = "without reclamation"
UNPREPARED: Final = "without preparation"
ARMS: Final = (OURS, KEPT, UNPREPARED)

_LOOK_S: Final = 0.25
_GONE_S: Final = 120.0
_AFTER_S: Final = 1.0
"""For so long the witness goes on looking when the server says that nothing is left."""


@dataclass(frozen=True, slots=True)
class Moment:
    """One look at the disk.

    Args:
        at_s: seconds since the arm began.
        total: bytes allocated by all environments.
        needed: bytes of those whose programs have not done yet.
        environments: how many there were.
        used_disk: how much less space was free than at the beginning, whoever used it.
    """

    at_s: float
    total: int
    needed: int
    environments: int
    used_disk: int


@dataclass(slots=True)
class ArmResult:
    """What came of one arm.

    Args:
        arm: its name.
        wall_s: from the first program to the last.
        programs: each of them.
        moments: looks at the disk.
        reclaim_s: for each environment, from its program's release until nothing was left.
        made: when each environment appeared.
        left: what was left when the server had stopped.
    """

    arm: str
    wall_s: float = 0.0
    programs: list[ProgramRecord] = field(default_factory=list)
    moments: list[Moment] = field(default_factory=list)
    reclaim_s: list[float] = field(default_factory=list)
    made: list[float] = field(default_factory=list)
    left: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Ground:
    """Where arms run: the provider's name, and the Docker daemon where that is it."""

    provider: str
    docker: Engine | None


@dataclass(slots=True)
class Running:
    """A server with an engine behind it. ``left`` is filled when it has stopped."""

    client: AsyncClient
    state: Path
    witness: Witness
    left: list[str] = field(default_factory=list)


@contextlib.asynccontextmanager
async def running(ground: Ground, pool: int, prepare_ahead: int | None = None) -> AsyncIterator[Running]:
    """Run engine and server. However it ends, what their installation has made is gone afterwards."""
    with tempfile.TemporaryDirectory(prefix="thunder-bench-", ignore_cleanup_errors=True) as folder:
        state = Path(folder)
        settings = ["--policy", "cap", "--cap-programs", str(pool), "--max-wait-s", "3600"]
        settings += ["--environments", ground.provider, "--state-dir", folder, "--log-level", "error"]
        if ground.docker is not None:
            settings += ["--docker-host", ground.docker.url]
        if prepare_ahead is not None:
            settings += ["--prepare-ahead", str(prepare_ahead)]
        here: Running | None = None
        try:
            async with (
                child("engine", "--port", "0", "--speed", "4", "--num-blocks", "8192") as engine,
                child("serve", "--port", "0", "--backend", engine, "--startup-wait-s", "20", *settings) as url,
                AsyncClient(url) as client,
            ):
                here = Running(client, state, _witness(ground, state))
                yield here
        finally:
            if here is not None:
                here.left += _clean(here.witness)


async def run_arm(arm: str, ground: Ground, load: Load, on_finished: Callable[[], None]) -> ArmResult:
    """Run all programs of an arm. Raises ChildError where engine or server do not start."""
    result = ArmResult(arm)
    load = replace(load, keep=arm == KEPT)
    async with running(ground, load.pool, 0 if arm == UNPREPARED else None) as here:
        programs = Programs(here.client, load, on_finished)
        began = time.time()
        watching = asyncio.create_task(_watch(here.witness, programs, result, began))
        try:
            await programs.run()
            result.wall_s = time.time() - began
            await _until_gone(here.client)
            await asyncio.sleep(_AFTER_S)
        finally:
            watching.cancel()
            await asyncio.wait([watching])
        if not watching.cancelled() and (error := watching.exception()) is not None:
            raise error
    result.programs, result.left = programs.records, here.left
    released = {record.environment: record.released for record in programs.records if record.released is not None}
    gone = here.witness.gone
    result.reclaim_s = [gone[name] - at for name, at in released.items() if name in gone]
    result.made = sorted(moment - began for moment in here.witness.made.values())
    return result


def _witness(ground: Ground, state: Path) -> Witness:
    installation = installation_of(state)
    if ground.docker is not None:
        return DockerWitness(ground.docker, installation)
    return ProcessWitness(state / "sandboxes", installation)


async def _watch(witness: Witness, programs: Programs, result: ArmResult, began: float) -> None:
    at_first = (await asyncio.to_thread(witness.look)).free_bytes
    while True:
        done = programs.finished()
        sight = await asyncio.to_thread(witness.look)
        needed = sum(size for name, size in sight.allocated.items() if name not in done)
        total, used = sum(sight.allocated.values()), at_first - sight.free_bytes
        result.moments.append(Moment(time.time() - began, total, needed, len(sight.allocated), used))
        await asyncio.sleep(_LOOK_S)


async def _until_gone(client: AsyncClient) -> None:
    """Wait until the server says that it has no environments; what it leaves is for the witness to tell."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_GONE_S):
            while await client.environments():  # noqa: ASYNC110 - another process has to be asked
                await asyncio.sleep(0.2)


def _clean(witness: Witness) -> list[str]:
    """Return what a stopped server has left, and remove it."""
    if left := witness.leftovers():
        witness.purge()
    return left
