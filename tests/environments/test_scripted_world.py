"""What a scripted world holds, beyond what the contract asks of every provider."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from contract import read_all
from scripted_bed import INSTALLATION, PLACE, plan, until

from thunderagent_core.environments.base import LABEL_INSTALLATION, Liveness, Place, ProviderError
from thunderagent_core.environments.scripted.members import members
from thunderagent_core.environments.scripted.provider import ScriptedProvider
from thunderagent_core.environments.scripted.world import ScriptedWorld

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from thunderagent_core.environments.base import Plan


@pytest.fixture
async def world() -> AsyncIterator[ScriptedWorld]:
    world = ScriptedWorld()
    yield world
    await world.aclose()


@pytest.fixture
def provider(world: ScriptedWorld) -> ScriptedProvider:
    return ScriptedProvider(world, installation=INSTALLATION)


class TestFiles:
    async def test_they_are_kept_in_memory_until_a_process_needs_them(
        self, world: ScriptedWorld, provider: ScriptedProvider
    ) -> None:
        await provider.create(plan())
        files = world.boxes[PLACE].files
        files.write("/workspace/a", b"one")
        assert await provider.disk_bytes(PLACE) == 3
        process = await provider.spawn(PLACE, ("/bin/sh", "-c", "cat a; echo two >b"))
        assert (await read_all(process)).out == b"one"
        await process.aclose()
        assert files.read("/workspace/b") == b"two\n"
        files.write("/workspace/c", b"three")
        assert files.read("/workspace/c") == b"three"
        assert files.read("/workspace/missing") is None
        directory = files.directory()
        assert directory.is_dir()
        await provider.destroy(PLACE)
        assert not directory.exists()

    @pytest.mark.parametrize("real", [False, True])
    async def test_a_snapshot_is_a_copy(self, world: ScriptedWorld, provider: ScriptedProvider, real: bool) -> None:
        await provider.create(plan())
        files = world.boxes[PLACE].files
        if real:
            os.mkfifo(files.directory() / "pipe")
        files.write("/a", b"old")
        files.ballast_bytes = 1000
        await provider.snapshot(PLACE, "s", plan().labels)
        files.write("/a", b"new")
        await provider.create(plan("e2", snapshot="s"))
        other = world.boxes[plan("e2").place].files
        assert other.read("/a") == b"old"
        assert other.allocated_bytes() >= 1003
        other.write("/a", b"other")
        assert files.read("/a") == b"new"
        world.damage("", "s")
        assert not await provider.snapshot_is_whole("", "s")
        with pytest.raises(ProviderError):
            await provider.create(plan("e3", snapshot="s"))


class TestProcesses:
    async def test_those_that_left_their_session_are_ended_as_well(
        self, world: ScriptedWorld, provider: ScriptedProvider
    ) -> None:
        await provider.create(plan())
        process = await provider.spawn(
            PLACE, ("/bin/sh", "-c", "setsid sh -c 'sleep 1000 & sleep 1000' >/dev/null 2>&1 & echo on")
        )
        assert (await read_all(process)).out == b"on\n"
        await process.aclose()
        token = world.boxes[PLACE].token
        await until(lambda: len(members(token)) >= 3)
        await world.kill(PLACE)
        assert members(token) == []
        assert (await provider.look(PLACE)).liveness is Liveness.STOPPED

    async def test_frozen_they_stand(self, world: ScriptedWorld, provider: ScriptedProvider) -> None:
        await provider.create(plan())
        process = await provider.spawn(PLACE, ("sleep", "1000"))
        await provider.freeze(PLACE)

        def states() -> set[str]:
            found = members(world.boxes[PLACE].token)
            return {Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] for pid in found}

        await until(lambda: states() == {"T"})
        await provider.thaw(PLACE)
        await until(lambda: states() == {"S"})
        await process.aclose()

    async def test_the_world_takes_its_processes_and_files_with_it(self) -> None:
        world = ScriptedWorld()
        provider = ScriptedProvider(world, installation=INSTALLATION)
        await provider.create(plan())
        process = await provider.spawn(PLACE, ("sleep", "1000"))
        await provider.snapshot(PLACE, "s", plan().labels)
        directories = [world.boxes[PLACE].files.directory(), world.snapshots["", "s"].files.directory()]
        await world.aclose()
        assert (await read_all(process)).status == 137
        await process.aclose()
        assert not any(directory.exists() for directory in directories)


class TestPorts:
    async def test_one_that_is_taken_leaves_it_made_but_stopped(
        self, world: ScriptedWorld, provider: ScriptedProvider
    ) -> None:
        await provider.create(served("e1", 5000))
        with pytest.raises(ProviderError) as caught:
            await provider.create(served("e2", 5000))
        assert caught.value.code == "port_taken"
        assert (await provider.look(plan("e2").place)).liveness is Liveness.STOPPED
        await provider.destroy(plan("e1").place)
        assert (await provider.create(served("e2", 5000))).ports == {80: 5000}

    async def test_one_that_the_daemon_chooses_changes_with_every_start(
        self, provider: ScriptedProvider, world
    ) -> None:
        first = await provider.create(served("e1", 0))
        await world.kill(PLACE)
        assert (await provider.look(PLACE)).ports == {}
        second = await provider.start(PLACE)
        assert second.ports[80] != first.ports[80]


def served(name: str, host_port: int) -> Plan:
    return plan(name, host_ports={80: host_port}, ports=(80,))


class TestOthers:
    @pytest.mark.parametrize("installation", ["", "somebody"])
    async def test_what_is_not_ours_is_seen_by_nobody_and_touched_by_nobody(
        self, world: ScriptedWorld, provider: ScriptedProvider, installation: str
    ) -> None:
        world.add_foreign(PLACE, installation)
        assert (await provider.look(PLACE)).liveness is Liveness.UNKNOWN
        assert await provider.survey("") == []
        for effect in (provider.destroy, provider.freeze, provider.start, provider.thaw):
            with pytest.raises(ProviderError):
                await effect(PLACE)
        with pytest.raises(ProviderError):
            await provider.create(plan())
        assert world.boxes[PLACE].labels.get(LABEL_INSTALLATION, "") == installation
        assert not world.effects


async def test_calls_are_counted_and_effects_recorded(world: ScriptedWorld, provider: ScriptedProvider) -> None:
    await provider.create(plan())
    await provider.create(plan())
    await provider.freeze(PLACE)
    await provider.freeze(PLACE)
    await provider.thaw(PLACE)
    await world.vanish(PLACE)
    assert world.calls == {"create": 2, "freeze": 2, "thaw": 1}
    assert [effect.name for effect in world.effects] == ["made", "started", "frozen", "thawed", "vanished"]


async def test_it_is_fast_in_memory(world: ScriptedWorld, provider: ScriptedProvider) -> None:
    """Property tests make thousands of environments; the bound is twenty times what is needed on a slow machine."""
    before = time.process_time()
    for index in range(1000):
        await provider.create(plan(f"e{index}"))
    for index in range(1000):
        await provider.destroy(Place("", f"thunder-{INSTALLATION}-e{index}"))
    assert time.process_time() - before < 10
    assert not world.boxes
