"""One story for each of the fifteen invariants of tool environments."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest
from manager_tools import MIB, PATIENCE_S, House, in_virtual_time, spec
from manager_witness import Evidence, WitnessedProvider

from thunderagent_core.environments.base import LABEL_ENVIRONMENT, LABEL_INSTALLATION, LABEL_PROGRAM, Liveness, Place
from thunderagent_core.environments.commands import EnvironmentDiedError, ExecRequest
from thunderagent_core.environments.ledger_errors import FencedError
from thunderagent_core.environments.manager import WarmPool
from thunderagent_core.environments.manager.errors import EnvironmentLostError, UnreachableError
from thunderagent_core.environments.scripted.faults import Fault, How, Moment
from thunderagent_core.environments.scripted.world import Box, ScriptedWorld

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    from manager_tools import PointedProvider

    Tell = Callable[[Callable[[House], Awaitable[None]]], None]


class WatchedHouse(House):
    """Asks at every effect whether what is on disk allows it."""

    def make_provider(self, installation: str) -> PointedProvider:
        self.evidence = Evidence(self.path, max_creations=4, max_reclamations=8, budget=self.settings.disk_budget_bytes)
        return WitnessedProvider(self.world, self.points, installation, self.evidence)


def tell(path: Path, story: Callable[[WatchedHouse], Awaitable[None]], **settings: object) -> None:
    async def told() -> None:
        async with WatchedHouse(path, **settings) as house:
            await story(house)
            assert not house.evidence.wrong, house.evidence.wrong

    in_virtual_time(told())


async def in_use(house: House, program_id: str = "p", **fields: object) -> None:
    await house.manager.declare(program_id, [spec(**fields)])
    await house.run(program_id, f"write by {program_id}")


def test_invariant_01_intent_is_durable_before_any_effect(tmp_path: Path) -> None:
    """The witness compares with the file at each effect. Here: where nothing can be written, nothing happens."""

    async def story(house: WatchedHouse) -> None:
        await in_use(house)
        await house.manager.declare("q", [spec()])
        house.writer.broken = True
        before = len(house.world.effects)
        house.manager.prepare("q")
        ending = asyncio.ensure_future(house.manager.ended("p", "released"))
        await asyncio.sleep(100)
        assert not ending.done()
        assert len(house.world.effects) == before
        house.writer.broken = False
        assert await ending
        await house.until(lambda: len(house.world.effects) > before)
        await house.until(lambda: house.manager.views("p") == [])
        await house.manager.wait_ready("q", "shell", 60)

    tell(tmp_path, story)


def test_invariant_02_nothing_without_our_label_is_touched(tmp_path: Path) -> None:
    async def story(house: WatchedHouse) -> None:
        house.world.add_foreign(Place("", "thunder-theirs"), "another installation")
        house.world.add_foreign(Place("", "postgres"))
        await in_use(house)
        assert dict(house.box("p").labels) == {
            LABEL_INSTALLATION: house.ledger.installation,
            LABEL_ENVIRONMENT: house.manager.views("p")[0].id,
            LABEL_PROGRAM: "p",
        }
        await house.manager.snapshot("p", "shell")
        (kept,) = house.world.snapshots.values()
        assert kept.labels[LABEL_INSTALLATION] == house.ledger.installation
        await house.manager.ended("p", "released")
        await asyncio.sleep(5000)
        assert {place.handle for place in house.world.boxes} == {"thunder-theirs", "postgres"}
        assert {box.liveness for box in house.world.boxes.values()} == {Liveness.ALIVE}

    tell(tmp_path, story)


def test_invariant_03_no_live_environment_is_destroyed_for_want_of_a_record(tmp_path: Path) -> None:
    """An older copy of the ledger is put back: what it does not know is kept for the grace period."""

    async def story(house: WatchedHouse) -> None:
        await in_use(house, "old")
        await house.close()
        copy = house.path.read_bytes()
        await house.open()
        await in_use(house, "new")
        new = house.box("new").place
        await house.close()
        house.path.write_bytes(copy)
        await house.open()
        await house.until(lambda: any(view.state == "quarantined" for view in house.manager.all_views()))
        await asyncio.sleep(house.settings.quarantine_grace_s - 2 * house.settings.reconcile_interval_s)
        assert new in house.world.boxes
        await house.restart()  # which does not begin the grace period anew
        await asyncio.sleep(3 * house.settings.reconcile_interval_s)
        assert new not in house.world.boxes
        assert await house.run("old", "read") == "by old"

    tell(tmp_path, story)


def test_invariant_03_a_new_ledger_touches_nothing_of_the_old_one(tmp_path: Path) -> None:
    async def story(house: WatchedHouse) -> None:
        await in_use(house)
        place = house.box("p").place
        await house.close()
        for file in house.path.parent.glob("ledger.db*"):
            file.unlink()
        await house.open()
        await asyncio.sleep(10 * house.settings.quarantine_grace_s)
        assert house.world.boxes[place].liveness is Liveness.ALIVE
        assert house.manager.all_views() == []

    tell(tmp_path, story)


def test_invariant_04_one_owner(tmp_path: Path) -> None:
    """A second server takes over; the first touches nothing any more and says so to everybody."""

    async def story(house: WatchedHouse) -> None:
        await in_use(house, "p")
        await in_use(house, "q")
        old, old_ledger = house.manager, house.ledger
        house.world.faults.add(Fault(operation="destroy", how=How.UNAVAILABLE))
        await old.ended("q", "released")
        await house.until(lambda: house.world.calls["destroy"] == 1)
        await house.open()
        before = house.world.destroyed()
        old.paused("p")
        for attempt in (old.ended("p", "released"), old.declare("r", [spec()]), old.wait_ready("p", "shell", 1)):
            with pytest.raises(FencedError):
                await attempt
        assert old.fenced.is_set()
        assert house.box("p").liveness is Liveness.ALIVE
        await house.until(lambda: len(house.world.boxes) == 1)
        assert len(house.world.destroyed()) == len(before) + 1
        assert house.world.calls["destroy"] == 2  # by the new one
        assert await house.run("p", "read") == "by p"
        await old.aclose()
        await old_ledger.aclose()

    tell(tmp_path, story)


def test_invariant_05_a_warm_one_is_given_out_once(tmp_path: Path) -> None:
    async def story(house: WatchedHouse) -> None:
        await house.until(lambda: [view.state for view in house.manager.all_views()] == ["ready"] * 3)
        warm = {view.id for view in house.manager.all_views()}
        programs = [f"p{number}" for number in range(8)]
        await asyncio.gather(*(house.manager.declare(program, [spec("mine")]) for program in programs))
        for program in programs:
            house.manager.prepare(program)
        views = await asyncio.gather(*(house.manager.wait_ready(program, "mine", 60) for program in programs))
        assert len({view.id for view in views}) == 8
        assert len({view.id for view in views} & warm) == 3
        assert house.manager.statistics().counts.handed_out == 3
        await house.until(lambda: [view.program_id for view in house.manager.all_views()].count(None) == 3)

    tell(tmp_path, story, warm=(WarmPool(spec("warm"), 3),))


def test_invariant_06_a_snapshot_is_verified_before_its_source_goes(tmp_path: Path) -> None:
    async def story(house: WatchedHouse) -> None:
        await in_use(house)
        house.world.faults.add(Fault(operation="snapshot_is_whole", how=How.UNAVAILABLE, moment=Moment.BEFORE))
        with pytest.raises(Exception, match="as scripted"):
            await house.manager.snapshot("p", "shell")
        assert await house.run("p", "read") == "by p"
        await house.until(lambda: not house.world.snapshots)
        # It goes bad between its verification and the end of the original, while the daemon does not answer.
        once, again = asyncio.Event(), asyncio.Event()
        once.set()
        for gate in (once, again):
            house.world.faults.add(Fault(operation="snapshot_is_whole", how=How.WAIT, gate=gate))
        await house.manager.snapshot("p", "shell")
        for endpoint, name in list(house.world.snapshots):
            house.world.damage(endpoint, name)
        again.set()
        await asyncio.sleep(5)
        assert await house.run("p", "read") == "by p"
        await house.until(lambda: not house.world.snapshots)

    tell(tmp_path, story)


def test_invariant_07_never_a_silent_blank(tmp_path: Path) -> None:
    async def story(house: WatchedHouse) -> None:
        for program in ("vanished", "while away", "spoiled"):
            await in_use(house, program)
        await house.world.vanish(house.box("vanished").place)
        with pytest.raises((EnvironmentLostError, EnvironmentDiedError)):
            await house.run("vanished", "read")
        await house.kill()
        await house.world.vanish(next(place for place, box in house.world.boxes.items() if of(box, "while away")))
        await house.open()
        await house.manager.snapshot("spoiled", "shell")
        await house.until(lambda: len(house.world.boxes) == 0)
        house.world.damage(*next(iter(house.world.snapshots)))
        for program in ("vanished", "while away", "spoiled"):
            for _ in range(2):
                with pytest.raises(EnvironmentLostError):
                    await house.run(program, "read")
            assert house.state(program) == "lost"
        await house.restart()
        with pytest.raises(EnvironmentLostError):
            await house.manager.wait_ready("vanished", "shell", 10)
        # Only who says so gets a blank one.
        house.evidence.deleted.add(house.manager.views("vanished")[0].id)
        await house.manager.delete("vanished", "shell")
        await house.manager.declare("vanished", [spec()])
        assert await house.run("vanished", "read") == ""

    def of(box: Box, program: str) -> bool:
        return box.labels.get(LABEL_PROGRAM) == program

    tell(tmp_path, story)


def test_invariant_07_whoever_knows_the_port_may_have_used_it(tmp_path: Path) -> None:
    """An environment that is used by its port only is not made again behind its user's back."""

    async def story(house: WatchedHouse) -> None:
        await house.manager.declare("p", [spec(ports=(80,))])
        house.manager.prepare("p")
        await house.until_state("p", "ready")
        assert not house.manager.views("p")[0].ports
        view = await house.manager.wait_ready("p", "shell", 10)
        assert view.ports == house.box("p").ports
        await house.world.vanish(house.box("p").place)
        await house.until_state("p", "lost")

    tell(tmp_path, story)


@pytest.mark.parametrize("state", ["ready", "in_use", "paused", "snapshotted", "lost", "failed", "preparing"])
def test_invariant_08_nothing_is_left_whatever_the_state(state: str, tmp_path: Path) -> None:
    """From a crash after any step: see ``test_manager_crashes.py``."""

    async def story(house: WatchedHouse) -> None:
        manager = house.manager
        gate = asyncio.Event()
        if state == "preparing":
            house.world.faults.add(Fault(operation="create", how=How.WAIT, moment=Moment.HALFWAY, gate=gate))
        await manager.declare("p", [spec(setup=("fail",) if state == "failed" else (), ports=(80,))])
        manager.prepare("p")
        if state not in {"ready", "failed", "preparing"}:
            await house.run("p", "write it")
        if state in {"paused", "snapshotted"}:
            await manager.snapshot("p", "shell")
        if state == "paused":
            await house.run("p", "read")
            await house.manager._parts.running.freeze(manager._records.programs["p"].environments["shell"])
        if state == "lost":
            await house.world.vanish(house.box("p").place)
        await house.until_state("p", state)
        await manager.ended("p", "released")
        await house.until(lambda: not manager.all_views())
        house.assert_nothing_left()

    tell(tmp_path, story, first_port=100, last_port=109)


def test_invariant_09_reaping_at_start_and_periodically_and_once(tmp_path: Path) -> None:
    async def story(house: WatchedHouse) -> None:
        for number in range(20):
            await in_use(house, f"p{number}")
        house.world.down.add("")
        for number in range(20):
            await house.manager.ended(f"p{number}", "released")
        await asyncio.sleep(300)
        assert len(house.world.boxes) == 20
        await house.restart()
        await asyncio.sleep(300)
        assert len(house.world.boxes) == 20
        house.world.down.clear()
        await house.until(lambda: not house.world.boxes, 60)
        assert sorted(house.world.destroyed()) == sorted(set(house.world.destroyed()))  # each once
        # A remnant of one that is gone, such as a daemon makes that carries out a request too late.
        handle, _ = house.rows()[0]
        labels = {LABEL_INSTALLATION: house.ledger.installation, LABEL_ENVIRONMENT: handle.rpartition("-")[2]}
        house.world.boxes[Place("", handle)] = Box(place=Place("", handle), labels=labels, spec=None)
        await house.until(lambda: not house.world.boxes, 2 * house.settings.reconcile_interval_s)

    tell(tmp_path, story)


def test_invariant_10_images_are_counted_over_everything_that_needs_them(tmp_path: Path) -> None:
    async def story(house: WatchedHouse) -> None:
        counted = house.manager.image_references
        await house.manager.declare("queued", [spec(image="a")])
        await in_use(house, "live", image="b")
        await in_use(house, "aside", image="c")
        await house.manager.snapshot("aside", "shell")
        await house.until(lambda: len(house.world.boxes) == 2)
        images = {image: count for (_, image), count in counted().items()}
        assert images == {"a": 1, "b": 1, "c": 1, "w": 1 + 1}
        for program in ("queued", "live", "aside"):
            await house.manager.ended(program, "released")
        await house.until(lambda: {image for _, image in counted()} == {"w"})

    tell(tmp_path, story, warm=(WarmPool(spec("warm", image="w"), 1),))


def test_invariant_11_the_budget_and_the_floor_hold_at_admission(tmp_path: Path) -> None:
    async def story(house: WatchedHouse) -> None:
        for number in range(6):
            await house.manager.declare(f"p{number}", [spec()])
            house.manager.prepare(f"p{number}")
        await asyncio.sleep(60)
        assert len(house.world.boxes) == 3
        assert house.manager.statistics().disk.charged == 30 * MIB
        house.box("p0").files.ballast_bytes = 18 * MIB  # it uses more than it reserved
        await asyncio.sleep(60)
        assert house.manager.statistics().disk.charged == 38 * MIB
        await house.manager.ended("p1", "released")
        await asyncio.sleep(60)
        assert len(house.world.boxes) == 2  # 28 of 35
        await house.manager.ended("p0", "released")
        await asyncio.sleep(60)
        assert len(house.world.boxes) == 3

    tell(tmp_path, story, disk_budget_bytes=35 * MIB)


def test_invariant_11_the_floor(tmp_path: Path) -> None:
    async def story() -> None:
        world = ScriptedWorld(disk_bytes=100 * MIB)
        async with House(tmp_path, world=world, disk_floor_bytes=75 * MIB) as house:
            for number in range(4):
                await house.manager.declare(f"p{number}", [spec()])
                house.manager.prepare(f"p{number}")
            await asyncio.sleep(60)
            assert len(world.boxes) == 2  # a third could fill 10 of the 5 MiB above the floor
            await house.manager.ended("p0", "released")
            await asyncio.sleep(60)
            assert house.state("p2") == "ready"
            await house.manager.declare("large", [spec(disk_bytes=200 * MIB)])
            house.manager.prepare("large")
            await asyncio.sleep(60)
            assert house.state("large") == "requested"

    in_virtual_time(story())


def test_invariant_12_ports_are_leased_reread_and_freed_after_removal(tmp_path: Path) -> None:
    async def story(house: WatchedHouse) -> None:
        house.world.faults.add(Fault(operation="create", how=How.FAIL, moment=Moment.HALFWAY, code="port_taken"))
        await house.manager.declare("p", [spec(ports=(80,))])
        first = await house.manager.wait_ready("p", "shell", 60)
        assert first.ports == {80: 101}  # 100 was somebody else's
        await house.manager.declare("q", [spec(ports=(80,))])
        house.manager.prepare("q")
        await asyncio.sleep(10)
        assert house.state("q") == "failed"  # too few ports: one is leased, one is bad
        house.world.down.add("")
        await house.manager.ended("p", "released")
        await asyncio.sleep(100)
        assert house.manager.statistics().ports_leased == 1  # it may still be there
        house.world.down.clear()
        await house.until(lambda: not house.world.boxes)
        second = await house.manager.wait_ready("q", "shell", 60)
        assert second.ports[80] in {100, 101}

    tell(tmp_path, story, first_port=100, last_port=101)


def test_invariant_12_a_port_that_the_daemon_chose_is_read_again_after_a_restart(tmp_path: Path) -> None:
    async def story(house: WatchedHouse) -> None:
        await in_use(house, ports=(80,))
        before = dict(house.box("p").ports)
        await house.world.restart("")
        view = await house.manager.wait_ready("p", "shell", 60)
        assert view.ports == house.box("p").ports != before
        assert await house.run("p", "read") == "by p"

    tell(tmp_path, story)


def test_invariant_13_unknown_frees_nothing(tmp_path: Path) -> None:
    async def story(house: WatchedHouse) -> None:
        await in_use(house, "used")
        await house.manager.declare("ready", [spec()])
        await house.manager.wait_ready("ready", "shell", 10)
        boxes = dict(house.world.boxes)
        house.world.down.add("")
        await house.restart()  # it knows nothing but what is on disk
        with pytest.raises(UnreachableError):
            await house.manager.wait_ready("used", "shell", 300)
        assert (house.state("used"), house.state("ready")) == ("in_use", "ready")
        house.world.down.clear()
        assert await house.run("used", "read") == "by used"
        assert house.world.boxes == boxes

    tell(tmp_path, story)


def test_invariant_14_teardown_never_waits_for_creation(tmp_path: Path) -> None:
    """Every place for creations is taken by some that hang, and hundreds wait; what has ended goes at once."""

    async def story(house: WatchedHouse) -> None:
        for number in range(10):
            await in_use(house, f"old{number}")
        gate = asyncio.Event()
        house.world.faults.add(Fault(operation="create", how=How.WAIT, gate=gate, times=1000))
        for number in range(300):
            await house.manager.declare(f"new{number}", [spec()])
            house.manager.prepare(f"new{number}")
        await house.until(lambda: house.manager.statistics().creating == 4)
        began = asyncio.get_running_loop().time()
        for number in range(10):
            await house.manager.ended(f"old{number}", "released")
        for number in range(300):  # and so do those whose creation hangs
            await house.manager.ended(f"new{number}", "released")
        await house.until(lambda: not house.manager.all_views())
        assert asyncio.get_running_loop().time() - began < 2
        house.assert_nothing_left()

    tell(tmp_path, story)


@pytest.mark.parametrize("moment", list(Moment))
def test_invariant_15_a_cancelled_preparation_is_rolled_back(moment: Moment, tmp_path: Path) -> None:
    async def story(house: WatchedHouse) -> None:
        gate = asyncio.Event()
        house.world.faults.add(Fault(operation="create", how=How.WAIT, moment=moment, gate=gate))
        await house.manager.declare("p", [spec(ports=(80,)), spec("other", setup=("sleep 100",))])
        house.manager.prepare("p")
        waiting = asyncio.ensure_future(house.manager.wait_ready("p", "shell", PATIENCE_S))
        await house.until_state("p", "preparing", name="other")
        await asyncio.sleep(1)
        await house.manager.ended("p", "cancelled")
        with pytest.raises(Exception, match="no live program"):
            await waiting
        await house.until(lambda: not house.manager.all_views(), 10)
        house.assert_nothing_left()

    tell(tmp_path, story, first_port=100, last_port=109)


def test_commands_are_never_run_in_a_frozen_environment(tmp_path: Path) -> None:
    """A program is paused while its tool runs: the tool ends first, the environment freezes then."""

    async def story(house: WatchedHouse) -> None:
        await in_use(house)
        async with house.manager.use("p", "shell", 10) as executor:
            house.manager.paused("p")
            await executor.run(ExecRequest(command="sleep 50"))
            assert house.state("p") == "in_use"
        await house.until_state("p", "paused")
        assert await house.run("p", "read") == "by p"  # paused or not, a tool runs when it is asked for
        assert house.state("p") == "in_use"
        await house.until_state("p", "paused")

    tell(tmp_path, story)
