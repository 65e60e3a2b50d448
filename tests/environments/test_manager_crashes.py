"""The server is killed at every point of every life-cycle operation, and another one takes over.

A point is the moment before or after a transaction, before, in the middle of or after an effect of the provider, and
before or after a command. Afterwards nothing may be left of what has ended, and nothing be lost of what lives.
"""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest
from manager_tools import MIB, PATIENCE_S, House, in_virtual_time, spec

from thunderagent_core.environments.base import LABEL_ENVIRONMENT, LABEL_INSTALLATION, Place
from thunderagent_core.environments.commands import EnvironmentDiedError
from thunderagent_core.environments.ledger_errors import LedgerError
from thunderagent_core.environments.manager import WarmPool
from thunderagent_core.environments.manager.errors import EnvironmentProblemError
from thunderagent_core.environments.scripted.faults import Fault, How, Moment
from thunderagent_core.environments.scripted.world import Box
from thunderagent_core.environments.spec import Hook
from thunderagent_core.environments.states import State

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

MAX_POINTS = 2000


@dataclass
class Story:
    """What was asked of a house, and what it acknowledged."""

    house: House
    kept: dict[str, set[str]] = field(default_factory=dict)
    """What the file of each program may hold."""

    async def write(self, program_id: str, text: str, name: str = "shell") -> None:
        before = self.kept.setdefault(program_id, {""})
        before.add(text)
        await self.house.run(program_id, f"write {text}", name)
        self.kept[program_id] = {text}


async def a_life(story: Story) -> None:
    house, manager = story.house, story.house.manager
    await manager.declare("p", [spec()])
    manager.prepare("p")
    await manager.wait_ready("p", "shell", PATIENCE_S)
    await story.write("p", "one")
    manager.paused("p")
    await house.until_state("p", "paused")
    await house.until(lambda: house.box("p").liveness == "frozen")
    manager.restored("p")
    await house.until_state("p", "in_use")
    await manager.snapshot("p", "shell")
    await house.until(lambda: not house.world.boxes)
    await story.write("p", "two")
    await manager.snapshot("p", "shell")
    await story.write("p", "three")
    await manager.ended("p", "released")
    await house.until(lambda: not manager.all_views())


async def set_up_and_hooks(story: Story) -> None:
    house, manager = story.house, story.house.manager
    wanted = spec(
        setup=("first", "second"), on_ready=Hook(command="greet"), on_reclaim=Hook(url="http://hook"), ports=(80,)
    )
    await manager.declare("p", [wanted, spec("other")])
    manager.prepare("p")
    await manager.wait_ready("p", "shell", PATIENCE_S)
    await story.write("p", "one")
    await manager.delete("p", "other")
    await manager.ended("p", "released")
    await house.until(lambda: not manager.all_views())


async def trouble_on_the_way(story: Story) -> None:
    """A port is taken, a daemon hangs up, an image is bad, a preparation is cancelled."""
    house, manager = story.house, story.house.manager
    faults = house.world.faults
    faults.add(Fault(operation="create", how=How.FAIL, moment=Moment.HALFWAY, code="port_taken"))
    faults.add(Fault(operation="create", how=How.UNAVAILABLE, moment=Moment.AFTER))
    await manager.declare("p", [spec(ports=(80,))])
    await manager.wait_ready("p", "shell", PATIENCE_S)
    await manager.declare("bad", [spec(setup=("fail",))])
    with contextlib.suppress(EnvironmentProblemError):
        await manager.wait_ready("bad", "shell", PATIENCE_S)
    gate = asyncio.Event()
    faults.add(Fault(operation="create", how=How.WAIT, moment=Moment.HALFWAY, gate=gate))
    await manager.declare("late", [spec()], parent_id="p")
    manager.prepare("late")
    await house.until(lambda: len(house.world.boxes) == (3 if house.box("bad") else 2))
    await manager.ended("p", "released")
    await manager.ended("bad", "released")
    await house.until(lambda: not manager.all_views())


async def warm_pool(story: Story) -> None:
    house, manager = story.house, story.house.manager
    await house.until(lambda: [view.state for view in manager.all_views()].count(State.READY) == 2)
    await manager.declare("p", [spec("mine")])
    manager.prepare("p")
    await manager.wait_ready("p", "mine", PATIENCE_S)
    await story.write("p", "one", "mine")
    await manager.ended("p", "released")
    await house.until(lambda: len(manager.all_views()) == 2)


async def deaths_and_strangers(story: Story) -> None:
    """An untouched one vanishes, a used one stops, a stranger with our label turns up."""
    house, manager = story.house, story.house.manager
    await manager.declare("p", [spec()])
    await manager.declare("q", [spec()])
    await manager.wait_ready("q", "shell", PATIENCE_S)
    await story.write("p", "one")
    await house.world.vanish(house.box("q").place)
    await house.world.kill(house.box("p").place)
    labels = {LABEL_INSTALLATION: house.ledger.installation, LABEL_ENVIRONMENT: "stray"}
    stray = Place("", "thunder-stray")
    house.world.boxes[stray] = Box(place=stray, labels=labels, spec=None)
    await manager.wait_ready("q", "shell", PATIENCE_S)
    with contextlib.suppress(EnvironmentDiedError):  # whoever is first may be told that it stopped
        await house.run("p", "read")
    assert await house.run("p", "read") == "one"
    await house.until(lambda: stray not in house.world.boxes)
    await manager.ended("p", "released")
    await manager.ended("q", "released")
    await house.until(lambda: not manager.all_views())


async def pressure(story: Story) -> None:
    """The disk holds two; the third makes room by putting aside the one that is paused."""
    house, manager = story.house, story.house.manager
    for name in "ab":
        await manager.declare(name, [spec()])
        await story.write(name, f"of {name}")
        manager.paused(name)
    await house.until(lambda: {house.state("a"), house.state("b")} == {"paused"})
    await manager.declare("c", [spec()])
    await story.write("c", "of c")
    await manager.ended("c", "released")
    await story.write("a", "again")
    for name in "ab":
        await manager.ended(name, "released")
    await house.until(lambda: not manager.all_views())


STORIES: dict[str, tuple[Callable[[Story], Awaitable[None]], dict[str, Any]]] = {
    "a life": (a_life, {}),
    "set-up and hooks": (set_up_and_hooks, {}),
    "trouble": (trouble_on_the_way, {"first_port": 100, "last_port": 110}),
    "warm pool": (warm_pool, {"warm": (WarmPool(spec("warm"), 2),)}),
    "deaths": (deaths_and_strangers, {}),
    "pressure": (pressure, {"disk_budget_bytes": 25 * MIB}),
}


async def told_until_death(
    tell: Callable[[Story], Awaitable[None]], path: Path, dies_after: int, settings: dict[str, Any]
) -> bool:
    """Tell a story to a server that is killed after some points; False where it came to its end."""
    house = House(path, **settings)
    story = Story(house)
    try:
        await house.open(dies_after=dies_after)
    except LedgerError:  # killed before anything began
        await house.ledger.aclose()
    else:
        await until_dead_or_done(house, tell(story))
        await house.kill()
    died = house.points.died
    house.world.faults.clear()
    # The second server is killed while it mends, somewhere else each time.
    with contextlib.suppress(LedgerError):
        await house.open(dies_after=1 + dies_after * 7 % 31)
        await until_dead_or_done(house, asyncio.sleep(60))
        await house.manager._tasks.aclose(LedgerError("killed"))
    await house.ledger.aclose()
    await house.open()
    await check_no_useless_snapshots(house)
    await check_what_lives(story)
    await check_the_end(story)
    await house.close()
    await house.world.aclose()
    return died


async def until_dead_or_done(house: House, work: Awaitable[None]) -> None:
    """Work until the server is killed; what the work failed with before is raised."""
    working = asyncio.ensure_future(work)
    dying = asyncio.ensure_future(house.points.dead.wait())
    await asyncio.wait([working, dying], return_when=asyncio.FIRST_COMPLETED)
    if not house.points.died:
        working.result()
    working.cancel()
    dying.cancel()
    await asyncio.wait([working, dying])


async def check_what_lives(story: Story) -> None:
    """Every live program has what it wrote."""
    house = story.house
    for program in house.manager.live_programs():
        for one in program.specs:
            if one.setup == ("fail",):
                continue
            await house.manager.wait_ready(program.id, one.name, PATIENCE_S)
            if one.name != "other":
                assert await house.run(program.id, "read", one.name) in story.kept.get(program.id, {""})
        house.manager.paused(program.id)  # so that the next one finds room


async def check_no_useless_snapshots(house: House) -> None:
    """What is left of snapshots is what some environment depends on, even while all programs live on."""

    def needed() -> set[str]:
        return {view.snapshot for view in house.manager.all_views() if view.snapshot is not None}

    await house.until(lambda: {name for _, name in house.world.snapshots} == needed())


async def check_the_end(story: Story) -> None:
    """After the end of all programs, and of the grace period, nothing is left."""
    house = story.house
    for program in house.manager.live_programs():
        await house.manager.ended(program.id, "released")
    assert house.manager.live_programs() == []
    await asyncio.sleep(house.settings.quarantine_grace_s + 3 * house.settings.reconcile_interval_s)
    warm = sum(pool.size for pool in house.settings.warm)
    assert len(house.world.boxes) == warm
    if not warm:
        house.assert_nothing_left()


@pytest.mark.parametrize("name", STORIES)
def test_killed_at_every_point(name: str, tmp_path: Path) -> None:
    tell, settings = STORIES[name]
    for number in range(MAX_POINTS):
        path = tmp_path / str(number)
        died = in_virtual_time(told_until_death(tell, path, number, settings))
        if not died:
            break
    print(f"\n{name}: killed at {number} points; nothing leaked, nothing lost")
    assert 20 < number < MAX_POINTS
