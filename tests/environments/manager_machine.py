"""A state machine for hypothesis: clients, scheduler, daemons, chance and death, in any order and overlapping.

Rules begin work without waiting for its end and let only a few steps pass, so that whatever can meet does meet.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from manager_tools import MIB, House, VirtualLoop, spec
from manager_witness import Evidence, WitnessedProvider

from thunderagent_core.environments.base import LABEL_ENVIRONMENT, LABEL_INSTALLATION, Place, ProviderError
from thunderagent_core.environments.commands import EnvironmentDiedError, ExecRequest
from thunderagent_core.environments.ledger_errors import LedgerError
from thunderagent_core.environments.manager import WarmPool
from thunderagent_core.environments.manager.errors import EnvironmentLostError, EnvironmentProblemError
from thunderagent_core.environments.scripted.faults import TWO_STEPS, Fault, How, Moment
from thunderagent_core.environments.scripted.world import Box, ScriptedWorld
from thunderagent_core.environments.spec import Hook

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from manager_tools import PointedProvider

    from thunderagent_core.environments.spec import EnvironmentSpec

SPECS: dict[str, EnvironmentSpec] = {
    one.name: one
    for one in (
        spec("plain"),
        spec("served", ports=(80, 90)),
        spec("made", setup=("first", "second"), on_reclaim=Hook(url="http://hook", timeout_s=2)),
        spec("bad", setup=("fail no",)),
        spec("slow", setup=("sleep 5",), disk_bytes=20 * MIB),
    )
}
ENDPOINTS = ("east", "west")

programs = st.sampled_from(["p0", "p1", "p2", "p3"])
names = st.sampled_from([*SPECS, "plain", "plain"])
steps = st.sampled_from([0, 1, 2, 3, 5, 8, 20, 60])
pick = st.integers(0, 30)
operations = st.sampled_from(
    ["create", "create", "snapshot", "destroy", "look", "start", "freeze", "thaw", "snapshot_is_whole", "drop_snapshot"]
)
troubles = st.sampled_from([How.FAIL, How.UNAVAILABLE, How.UNAVAILABLE, How.FORGET])
moments = st.sampled_from(list(Moment))

settings_of_a_run = st.fixed_dictionaries(
    {
        "max_creations": st.sampled_from([1, 2, 4]),
        "max_reclamations": st.sampled_from([1, 3]),
        "disk_budget_bytes": st.sampled_from([None, None, 35 * MIB]),
        "freeze_after_s": st.sampled_from([0.1, 2.0]),
        "creation_timeout_s": st.sampled_from([20.0, 300.0]),
        "warm": st.sampled_from([(), (), (WarmPool(spec("warm"), 2),)]),
        "first_port": st.sampled_from([None, 100]),
        "last_port": st.just(107),
        "quarantine_grace_s": st.just(100.0),
    }
)


class WitnessedHouse(House):
    evidence: Evidence

    def make_provider(self, installation: str) -> PointedProvider:
        return WitnessedProvider(self.world, self.points, installation, self.evidence)


class BugWatch(logging.Handler):
    """Counts it as wrong when the manager says that something is a bug, unless it is being killed."""

    def __init__(self, machine: Environments) -> None:
        super().__init__(logging.ERROR)
        self._machine = machine

    def emit(self, record: logging.LogRecord) -> None:
        text = record.getMessage()
        if "bug" in text and not self._machine.house.points.dead.is_set():
            error = record.exc_info[1] if record.exc_info else None
            self._machine.evidence.wrong.append(f"{text}: {error!r}")


class Environments(RuleBasedStateMachine):
    """Plays everybody around one installation."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = VirtualLoop()
        self.folder = tempfile.TemporaryDirectory(dir="/dev/shm" if Path("/dev/shm").is_dir() else None)
        self.kept: dict[str, set[str]] = {}
        """What the file of each environment may hold."""
        self.harmed: set[str] = set()
        """Environments that something outside has destroyed, or whose snapshot it may have."""
        self.forgetful = False
        self.numbers = 0
        self.work: set[asyncio.Task[Any]] = set()
        self.foreign = Place("east", "thunder-of-somebody-else")

    @initialize(settings=settings_of_a_run)
    def begin(self, settings: dict[str, Any]) -> None:
        world = ScriptedWorld(endpoints=ENDPOINTS)
        world.add_foreign(self.foreign, "another")
        self.house = WitnessedHouse(Path(self.folder.name), world=world, **settings)
        house = self.house.settings
        self.house.evidence = self.evidence = Evidence(
            self.house.path,
            max_creations=house.max_creations,
            max_reclamations=house.max_reclamations,
            budget=house.disk_budget_bytes,
        )
        self.run(self.house.open())
        self.watch = BugWatch(self)
        logging.getLogger("thunderagent_core").addHandler(self.watch)

    def teardown(self) -> None:
        try:
            if hasattr(self, "house"):
                self.run(self.end_of_everything())
        finally:
            logging.getLogger("thunderagent_core").removeHandler(getattr(self, "watch", logging.NullHandler()))
            self.loop.run_until_complete(self.loop.shutdown_asyncgens())
            self.loop.close()
            self.folder.cleanup()

    # Means

    def run(self, story: Coroutine[Any, Any, Any]) -> Any:
        return self.loop.run_until_complete(story)

    async def _pass(self, count: int) -> None:
        for _ in range(count):
            await asyncio.sleep(0)

    def go(self, work: Coroutine[Any, Any, Any], count: int) -> None:
        """Begin something and let a few steps pass."""

        async def started() -> None:
            task = asyncio.ensure_future(self._tolerantly(work))
            self.work.add(task)
            task.add_done_callback(self._ended)
            await self._pass(1 + count)

        self.run(started())

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self.work.discard(task)
        if not task.cancelled() and task.exception() is not None:
            self.evidence.wrong.append(f"a caller got {task.exception()!r}")

    async def _tolerantly(self, work: Coroutine[Any, Any, Any]) -> None:
        with contextlib.suppress(EnvironmentProblemError, LedgerError, ProviderError, EnvironmentDiedError):
            await work

    @property
    def manager(self) -> Any:
        return self.house.manager

    def _boxes(self) -> list[Box]:
        return [box for place, box in self.house.world.boxes.items() if place != self.foreign]

    # Clients

    @rule(program=programs, wanted=st.lists(names, min_size=1, max_size=3, unique=True), parent=programs, count=steps)
    def declare(self, program: str, wanted: list[str], parent: str, count: int) -> None:
        parent_id = parent if parent < program else None
        self.go(self.manager.declare(program, [SPECS[name] for name in wanted], parent_id=parent_id), count)

    @rule(program=programs, name=names, count=steps)
    def write(self, program: str, name: str, count: int) -> None:
        self.numbers += 1
        self.go(self._write(program, name, str(self.numbers)), count)

    async def _write(self, program: str, name: str, text: str) -> None:
        async with self.manager.use(program, name, 50.0) as executor:
            environment_id = self._id(program, name)
            if environment_id is None:
                return
            maybe = self.kept.setdefault(environment_id, {""})
            maybe.add(text)
            await executor.run(ExecRequest(command=f"write {text}"))
            if not self.house.points.dead.is_set():
                self.kept[environment_id] = (self.kept[environment_id] - maybe) | {text}

    @rule(program=programs, name=names, count=steps)
    def read(self, program: str, name: str, count: int) -> None:
        self.go(self._read(program, name), count)

    async def _read(self, program: str, name: str) -> None:
        environment_id = None
        try:
            async with self.manager.use(program, name, 50.0) as executor:
                environment_id = self._id(program, name)
                text = (await executor.run(ExecRequest(command="read"))).stdout.decode()
        except EnvironmentLostError:
            return
        if environment_id is not None:
            allowed = self.kept.get(environment_id, {""})
            self.evidence.check(text in allowed, f"7: {environment_id} holds {text!r}, not one of {allowed}")

    def _id(self, program: str, name: str) -> str | None:
        known = self.manager._records.programs.get(program)
        record = known.environments.get(name) if known else None
        return None if record is None else record.id

    @rule(program=programs, name=names, count=steps)
    def wait_ready(self, program: str, name: str, count: int) -> None:
        self.go(self.manager.wait_ready(program, name, 20.0), count)

    @rule(program=programs, name=names, count=steps)
    def snapshot(self, program: str, name: str, count: int) -> None:
        self.go(self.manager.snapshot(program, name), count)

    @rule(program=programs, name=names, count=steps)
    def delete(self, program: str, name: str, count: int) -> None:
        self.go(self._delete(program, name), count)

    async def _delete(self, program: str, name: str) -> None:
        if (environment_id := self._id(program, name)) is not None:
            self.evidence.deleted.add(environment_id)
            await self.manager.delete(program, name)

    # The scheduler

    @rule(program=programs, count=steps)
    def prepare(self, program: str, count: int) -> None:
        self.go(self._tell(self.manager.prepare, program), count)

    @rule(program=programs, count=steps)
    def pause(self, program: str, count: int) -> None:
        self.go(self._tell(self.manager.paused, program), count)

    @rule(program=programs, count=steps)
    def restore(self, program: str, count: int) -> None:
        self.go(self._tell(self.manager.restored, program), count)

    async def _tell(self, fact: Callable[[str], None], program: str) -> None:
        fact(program)

    @rule(program=programs, count=steps)
    def end(self, program: str, count: int) -> None:
        self.go(self.manager.ended(program, "released"), count)

    # The world

    @rule(seconds=st.sampled_from([0.01, 0.5, 3.0, 31.0, 120.0]))
    def time_passes(self, seconds: float) -> None:
        self.run(asyncio.sleep(seconds))

    @rule(how=troubles, operation=operations, moment=moments, times=st.sampled_from([1, 1, 3, 8]))
    def something_will_go_wrong(self, how: How, operation: str, moment: Moment, times: int) -> None:
        if moment is Moment.HALFWAY and operation not in TWO_STEPS:
            moment = Moment.AFTER
        self.forgetful = self.forgetful or how is How.FORGET
        self.house.world.faults.add(Fault(operation=operation, how=how, moment=moment, times=times))

    @rule(endpoint=st.sampled_from(ENDPOINTS))
    def daemon_goes_down(self, endpoint: str) -> None:
        self.house.world.down.add(endpoint)

    @rule(endpoint=st.sampled_from(ENDPOINTS))
    def daemon_comes_back(self, endpoint: str) -> None:
        self.run(self.house.world.restart(endpoint))

    @precondition(lambda self: self._boxes())
    @rule(number=pick)
    def main_program_dies(self, number: int) -> None:
        boxes = self._boxes()
        self.run(self._strike(self.house.world.kill, boxes[number % len(boxes)].place))

    @precondition(lambda self: self._boxes())
    @rule(number=pick)
    def somebody_removes_one(self, number: int) -> None:
        boxes = self._boxes()
        box = boxes[number % len(boxes)]
        self.harmed.add(box.environment_id)
        self.run(self._strike(self.house.world.vanish, box.place))

    async def _strike(self, blow: Callable[[Place], Coroutine[Any, Any, None]], place: Place) -> None:
        if place in self.house.world.boxes:  # the loop may have run on since it was chosen
            await blow(place)

    @precondition(lambda self: self.house.world.snapshots)
    @rule(number=pick)
    def a_snapshot_is_damaged(self, number: int) -> None:
        keys = list(self.house.world.snapshots)
        key = keys[number % len(keys)]
        self.harmed.add(self.house.world.snapshots[key].labels[LABEL_ENVIRONMENT])
        self.house.world.damage(*key)

    @rule(endpoint=st.sampled_from(ENDPOINTS), number=pick)
    def a_stranger_turns_up(self, endpoint: str, number: int) -> None:
        labels = {LABEL_INSTALLATION: self.house.ledger.installation, LABEL_ENVIRONMENT: f"stray{number}"}
        place = Place(endpoint, f"thunder-stray-{number}")
        self.house.world.boxes.setdefault(place, Box(place=place, labels=labels, spec=None))

    # The server

    @rule()
    def server_is_killed(self) -> None:
        self.run(self._killed())

    async def _killed(self) -> None:
        self.house.points.dead.set()
        await self._drop_work()
        await self.house.restart()

    @rule()
    def server_is_restarted(self) -> None:
        self.run(self._restarted())

    async def _restarted(self) -> None:
        await self._drop_work()
        await self.house.close()
        await self.house.open()

    async def _drop_work(self) -> None:
        for task in list(self.work):
            task.cancel()
        if self.work:
            await asyncio.wait(self.work)

    # What must hold

    @invariant()
    def nothing_went_wrong(self) -> None:
        if hasattr(self, "house"):
            self.evidence.look_at_owners()
            assert not self.evidence.wrong, self.evidence.wrong
            assert self.foreign in self.house.world.boxes, "2: it is not ours"
            ports = [(box.place.endpoint, port) for box in self._boxes() for port in box.ports.values()]
            assert len(set(ports)) == len(ports), "12: a port was given twice"
            self._nothing_is_lost_without_cause()

    def _nothing_is_lost_without_cause(self) -> None:
        if self.forgetful:
            return
        lost = self.evidence.query("SELECT id, reason FROM environments WHERE state = 'lost'")
        assert {row[0] for row in lost} <= self.harmed, "3, 7, 13: lost for no reason"

    async def end_of_everything(self) -> None:
        """All programs end, trouble ceases, time passes: nothing is left."""
        world = self.house.world
        world.faults.clear()
        for endpoint in ENDPOINTS:
            world.down.discard(endpoint)
        await self._drop_work()
        for program in self.manager.live_programs():
            await self.manager.ended(program.id, "released")
        await asyncio.sleep(400.0)
        wanted = sum(pool.size for pool in self.house.settings.warm)
        await self.house.until(lambda: len(self._boxes()) == wanted)
        assert [view.state for view in self.manager.all_views()] == ["ready"] * wanted
        if not wanted:
            world.boxes.pop(self.foreign)
            self.house.assert_nothing_left()
        await self.house.close()
        await world.aclose()
