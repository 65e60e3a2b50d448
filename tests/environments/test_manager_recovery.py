"""After death, restarts and strange finds; putting aside and coming back; stopping in order."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest
from manager_tools import MIB, House, in_virtual_time, spec

from thunderagent_core.environments.base import LABEL_ENVIRONMENT, LABEL_INSTALLATION, Liveness, Place, ProviderError
from thunderagent_core.environments.commands import EnvironmentDiedError, ExecRequest
from thunderagent_core.environments.manager import WarmPool
from thunderagent_core.environments.manager.errors import BusyError, NotReadyError, StoppingError
from thunderagent_core.environments.scripted.faults import Fault, How, Moment
from thunderagent_core.environments.scripted.world import Box, ScriptedWorld, Snapshot

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path


def tell(path: Path, story: Callable[[House], Awaitable[None]], **settings: Any) -> None:
    async def told() -> None:
        async with House(path, **settings) as house:
            await story(house)

    in_virtual_time(told())


async def in_use(house: House, program_id: str = "p", **fields: Any) -> None:
    await house.manager.declare(program_id, [spec(**fields)])
    await house.run(program_id, f"write by {program_id}")


# What is found outside


def test_strays_and_what_reap_says_of_them(tmp_path: Path) -> None:
    async def story(house: House) -> None:
        await in_use(house)
        await in_use(house, "gone")
        gone = house.box("gone")
        await house.manager.ended("gone", "released")
        await house.until(lambda: not house.manager.views("gone"))
        labels = {LABEL_INSTALLATION: house.ledger.installation}
        stray, nameless = Place("", "thunder-stray"), Place("", "thunder-nameless")
        house.world.boxes[stray] = Box(place=stray, labels={**labels, LABEL_ENVIRONMENT: "x"}, spec=None)
        house.world.boxes[nameless] = Box(place=nameless, labels=labels, spec=None)
        house.world.boxes[gone.place] = Box(place=gone.place, labels=gone.labels, spec=None)
        house.world.snapshots["", "old"] = Snapshot(labels={**labels, LABEL_ENVIRONMENT: "x"})
        dry = {(item.kind, item.name): (item.reason, item.due_in_s) for item in await house.manager.reap(dry_run=True)}
        grace_s = house.settings.quarantine_grace_s
        assert dry == {
            ("environment", "thunder-stray"): ("not on record", grace_s),
            ("environment", "thunder-nameless"): ("not on record", grace_s),
            ("environment", gone.place.handle): ("remnant of one that is gone", 0.0),
            ("snapshot", "old"): ("not on record", grace_s),
        }
        assert len(house.world.boxes) == 4
        await house.manager.reap(dry_run=False)
        assert gone.place not in house.world.boxes
        assert {stray, nameless} <= set(house.world.boxes)
        assert house.manager.statistics().counts.quarantined == 3
        await asyncio.sleep(100)
        items = await house.manager.reap(dry_run=True)
        assert {item.name for item in items} == {"thunder-stray", "thunder-nameless", "old"}
        assert {round(item.due_in_s) for item in items} == {round(grace_s - 100)}
        await asyncio.sleep(grace_s)
        assert set(house.world.boxes) == {house.box("p").place}
        assert house.world.snapshots == {}
        assert await house.manager.reap(dry_run=True) == []

    tell(tmp_path, story)


def test_an_original_that_turns_up_again_after_it_was_dropped(tmp_path: Path) -> None:
    """A daemon may carry out a request long after it was given up."""

    async def story(house: House) -> None:
        await in_use(house)
        original = house.box("p")
        await house.manager.snapshot("p", "shell")
        await house.until(lambda: not house.world.boxes)
        twin = Box(place=original.place, labels=original.labels, spec=original.spec, liveness=Liveness.ALIVE)
        house.world.boxes[original.place] = twin
        await house.until(lambda: not house.world.boxes, 100)
        assert house.state("p") == "snapshotted"
        assert await house.run("p", "read") == "by p"

    tell(tmp_path, story)


def test_a_live_environment_on_an_endpoint_that_has_another_name_now(tmp_path: Path) -> None:
    async def story(house: House) -> None:
        await in_use(house)
        box = house.box("p")
        renamed = Place("renamed", box.place.handle)
        del house.world.boxes[box.place]
        box.place = renamed
        house.world.boxes[renamed] = box
        house.world.endpoints = ("renamed",)
        await house.restart()
        await asyncio.sleep(10 * house.settings.quarantine_grace_s)
        assert renamed in house.world.boxes
        assert house.state("p") == "in_use"
        await house.manager.ended("p", "released")

    tell(tmp_path, story, world=ScriptedWorld(endpoints=("first",)))


# Death


def test_a_main_program_that_dies_is_started_again_with_its_files(tmp_path: Path) -> None:
    async def story(house: House) -> None:
        await in_use(house)
        for _ in range(6):  # again and again, ever more patiently
            await house.world.kill(house.box("p").place)
            await house.until(lambda: house.box("p").liveness is Liveness.ALIVE)
        assert await house.run("p", "read") == "by p"

    tell(tmp_path, story)


def test_a_command_that_meets_death_is_told_so(tmp_path: Path) -> None:
    async def story(house: House) -> None:
        await in_use(house)
        with pytest.raises(EnvironmentDiedError):
            async with house.manager.use("p", "shell", 10) as executor:
                await house.world.kill(house.box("p").place)
                await executor.run(ExecRequest(command="read"))
        assert await house.run("p", "read") == "by p"

    tell(tmp_path, story)


def test_an_untouched_one_that_vanishes_is_made_again(tmp_path: Path) -> None:
    async def story(house: House) -> None:
        await house.manager.declare("p", [spec(setup=("first",))])
        await house.manager.wait_ready("p", "shell", 10)
        await house.world.vanish(house.box("p").place)
        await house.until(lambda: len(house.commands) == 2)
        assert (await house.manager.wait_ready("p", "shell", 10)).state == "ready"

    tell(tmp_path, story)


def test_setup_that_was_cut_short_begins_anew_in_a_fresh_one(tmp_path: Path) -> None:
    """Half of its commands have run when the server is killed: they do not run twice in the same environment."""

    async def story(house: House) -> None:
        await house.manager.declare("p", [spec(setup=("write half", "sleep 100"))])
        house.manager.prepare("p")
        await house.until(lambda: len(house.commands) == 1)
        half_made = house.box("p")
        await house.restart()
        await house.manager.wait_ready("p", "shell", 300)
        assert house.box("p") is not half_made
        assert [effect.name for effect in house.world.effects] == ["made", "started", "destroyed", "made", "started"]

    tell(tmp_path, story)


def test_programs_of_the_last_server_are_known(tmp_path: Path) -> None:
    async def story(house: House) -> None:
        await house.manager.declare("parent", [])
        await house.manager.declare("p", [spec(), spec("other", ports=(80,))], parent_id="parent")
        await house.manager.declare("ended", [spec()])
        await house.manager.ended("ended", "released")
        manager = await house.restart()
        known = {program.id: program for program in manager.live_programs()}
        assert set(known) == {"parent", "p"}
        assert known["p"].parent_id == "parent"
        assert {one.name for one in known["p"].specs} == {"shell", "other"}
        await manager.declare("p", known["p"].specs, parent_id="parent")

    tell(tmp_path, story)


# Putting aside


def test_snapshots_on_request(tmp_path: Path) -> None:
    async def story(house: House) -> None:
        manager = house.manager
        await manager.declare("p", [spec(setup=("first",))])
        with pytest.raises(NotReadyError, match="requested"):
            await manager.snapshot("p", "shell")
        await house.run("p", "write one")
        async with manager.use("p", "shell", 10):
            with pytest.raises(BusyError):
                await manager.snapshot("p", "shell")
        assert (await manager.snapshot("p", "shell")).state == "snapshotted"
        assert (await manager.snapshot("p", "shell")).state == "snapshotted"
        await house.until(lambda: not house.world.boxes)
        assert manager.statistics().disk.reserved == 0
        assert await house.run("p", "read") == "one"
        assert [command for _, command in house.commands].count("first") == 1  # its files were there already
        await house.run("p", "write two")
        await manager.snapshot("p", "shell")
        await house.until(lambda: len(house.world.snapshots) == 1 and not house.world.boxes)
        assert await house.run("p", "read") == "two"
        assert manager.statistics().counts.put_aside == manager.statistics().counts.brought_back == 2

    tell(tmp_path, story)


def test_a_snapshot_that_fails_leaves_everything_as_it_was(tmp_path: Path) -> None:
    async def story(house: House) -> None:
        await in_use(house)
        for moment in Moment:
            house.world.faults.add(Fault(operation="snapshot", how=How.FAIL, moment=moment))
            with pytest.raises(ProviderError, match="as scripted"):
                await house.manager.snapshot("p", "shell")
            assert await house.run("p", "read") == "by p"
            await house.until(lambda: not house.world.snapshots)

    tell(tmp_path, story)


def test_coming_back_while_the_snapshot_is_taken(tmp_path: Path) -> None:
    """Whoever returns in the middle gets the original; the snapshot is thrown away."""

    async def story(house: House) -> None:
        await in_use(house)
        gate = asyncio.Event()
        house.world.faults.add(Fault(operation="snapshot", how=How.WAIT, moment=Moment.HALFWAY, gate=gate))
        aside = asyncio.ensure_future(house.manager.snapshot("p", "shell"))
        await house.until(lambda: house.world.snapshots)
        reading = asyncio.ensure_future(house.run("p", "read"))
        await asyncio.sleep(1)
        gate.set()
        with pytest.raises(BusyError):
            await aside
        assert await reading == "by p"
        await house.until(lambda: not house.world.snapshots)
        assert house.world.destroyed() == []

    tell(tmp_path, story)


def test_one_that_cannot_come_back_now_keeps_its_snapshot(tmp_path: Path) -> None:
    async def story(house: House) -> None:
        await in_use(house)
        await house.manager.snapshot("p", "shell")
        await house.until(lambda: not house.world.boxes)
        house.world.faults.add(
            Fault(operation="create", how=How.UNAVAILABLE, moment=Moment.HALFWAY, times=4, code="daemon_error")
        )
        with pytest.raises(Exception, match="as scripted"):
            await house.run("p", "read")
        await house.until_state("p", "snapshotted")
        assert await house.run("p", "read") == "by p"

    tell(tmp_path, story)


def test_the_longest_paused_makes_room_first(tmp_path: Path) -> None:
    async def story(house: House) -> None:
        manager = house.manager
        for program in ("a", "b", "served"):
            await in_use(house, program, ports=(80,) if program == "served" else ())
        for program in ("served", "b", "a"):
            manager.paused(program)
            await asyncio.sleep(10)
        assert [house.state(program) for program in ("a", "b", "served")] == ["paused", "paused", "in_use"]
        await in_use(house, "c")
        await house.until_state("b", "snapshotted")
        assert house.state("a") == "paused"
        assert manager.statistics().disk.charged <= 30 * MIB + 100
        manager.prepare("a")  # it is to come back soon, so it stays
        await manager.declare("d", [spec()])
        with pytest.raises(NotReadyError):
            await manager.wait_ready("d", "shell", 100)
        assert house.state("a") == "paused"
        await manager.ended("c", "released")
        await manager.wait_ready("d", "shell", 100)
        manager.paused("a")
        assert await house.run("b", "read") == "by b"
        await house.until_state("a", "snapshotted")

    tell(tmp_path, story, disk_budget_bytes=35 * MIB)


def test_what_runs_grows_and_what_is_paused_makes_room(tmp_path: Path) -> None:
    async def story(house: House) -> None:
        for program in ("idle", "busy"):
            await in_use(house, program)
        house.manager.paused("idle")
        await house.until_state("idle", "paused")
        house.box("busy").files.ballast_bytes = 20 * MIB
        await house.until_state("idle", "snapshotted", within_s=100)
        assert house.state("busy") == "in_use"
        assert house.manager.statistics().disk.charged < 25 * MIB

    tell(tmp_path, story, disk_budget_bytes=25 * MIB)


def test_a_full_endpoint_does_not_hold_up_another(tmp_path: Path) -> None:
    """What can only come back to an endpoint that is full lets those pass that fit elsewhere."""

    async def story(house: House) -> None:
        await in_use(house, "bound")
        place = house.box("bound").place
        await house.manager.snapshot("bound", "shell")
        await house.until(lambda: not house.world.boxes)
        (kept,) = house.world.snapshots.values()
        kept.files.ballast_bytes = 95 * MIB
        with pytest.raises(NotReadyError):
            await house.manager.wait_ready("bound", "shell", 10)
        await in_use(house, "other")
        assert house.box("other").place.endpoint != place.endpoint
        kept.files.ballast_bytes = 0
        assert await house.run("bound", "read") == "by bound"

    world = ScriptedWorld(endpoints=("a", "b"), disk_bytes=100 * MIB)
    tell(tmp_path, story, world=world, disk_floor_bytes=MIB)


def test_a_restored_program_gets_back_what_was_put_aside(tmp_path: Path) -> None:
    async def story(house: House) -> None:
        await in_use(house)
        await house.manager.snapshot("p", "shell")
        await house.until(lambda: not house.world.boxes)
        house.manager.restored("p")
        await house.until_state("p", "in_use")
        assert await house.run("p", "read") == "by p"

    tell(tmp_path, story)


def test_freezing_waits_for_the_grace_period(tmp_path: Path) -> None:
    async def story(house: House) -> None:
        await in_use(house)
        house.manager.paused("p")
        await asyncio.sleep(1.9)
        house.manager.restored("p")
        await asyncio.sleep(10)
        assert "frozen" not in {effect.name for effect in house.world.effects}
        house.manager.paused("p")
        await asyncio.sleep(2.1)
        assert house.box("p").liveness is Liveness.FROZEN
        house.manager.restored("p")
        await house.until(lambda: house.box("p").liveness is Liveness.ALIVE, 1)
        house.manager.paused("p")
        await house.until_state("p", "paused")
        await house.restart()
        assert house.state("p") == "paused"
        assert await house.run("p", "read") == "by p"

    tell(tmp_path, story)


# Warm pools


def test_warm_pools_follow_the_settings(tmp_path: Path) -> None:
    async def story(house: House) -> None:
        await house.until(lambda: [view.state for view in house.manager.all_views()] == ["ready"] * 2)
        handles = {place.handle for place in house.world.boxes}
        await house.restart()
        await asyncio.sleep(100)
        assert {place.handle for place in house.world.boxes} == handles  # adopted, not made again
        await house.manager.declare("p", [spec("mine"), spec("unlike", cpus=0.5)])
        began = asyncio.get_running_loop().time()
        await house.run("p", "read", "mine")
        assert asyncio.get_running_loop().time() == began
        assert house.box("p", "mine").place.handle in handles
        await house.run("p", "read", "unlike")
        await house.kill()
        object.__setattr__(house.settings, "warm", ())
        await house.open()
        await house.until(lambda: len(house.world.boxes) == 2)
        assert {view.program_id for view in house.manager.all_views()} == {"p"}

    tell(tmp_path, story, warm=(WarmPool(spec("w"), 2),))


def test_a_warm_pool_that_cannot_be_made_is_no_storm(tmp_path: Path) -> None:
    async def story(house: House) -> None:
        await asyncio.sleep(300)
        assert house.world.calls["create"] < 40
        await in_use(house)  # and nobody else suffers

    tell(tmp_path, story, warm=(WarmPool(spec("w", setup=("fail",)), 1),))


# Stopping


def test_stopping_in_order(tmp_path: Path) -> None:
    async def story(house: House) -> None:
        await in_use(house)
        await in_use(house, "ending")
        await house.manager.declare("waiting", [spec(setup=("sleep 1000",))])
        waiting = asyncio.ensure_future(house.manager.wait_ready("waiting", "shell", 3000))
        await house.until_state("waiting", "preparing")
        await house.manager.ended("ending", "released")
        await house.close()
        with pytest.raises(StoppingError):
            await waiting
        with pytest.raises(StoppingError):
            await house.manager.declare("late", [spec()])
        assert len(house.world.boxes) == 2  # what was being taken back is gone, the rest stays
        await house.open()
        assert await house.run("p", "read") == "by p"
        assert {program.id for program in house.manager.live_programs()} == {"p", "waiting"}

    tell(tmp_path, story)


def test_stopping_does_not_wait_for_a_dead_daemon(tmp_path: Path) -> None:
    async def story(house: House) -> None:
        await in_use(house)
        house.world.down.add("")
        await house.manager.ended("p", "released")
        began = asyncio.get_running_loop().time()
        await house.close()
        assert asyncio.get_running_loop().time() - began <= house.settings.stop_grace_s + 1
        house.world.down.clear()
        await house.open()
        await house.until(lambda: not house.world.boxes)
        house.assert_nothing_left()

    tell(tmp_path, story)
