"""Making environments: order, limits, failures, and what callers are told."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest
from manager_tools import MIB, PATIENCE_S, House, in_virtual_time, spec

from thunderagent_core.environments.manager.errors import (
    ConflictError,
    NotReadyError,
    PreparationError,
    QueueFullError,
    UnknownEnvironmentError,
    UnknownProgramError,
    UnknownProviderError,
)
from thunderagent_core.environments.scripted.faults import Fault, How, Moment
from thunderagent_core.environments.scripted.world import ScriptedWorld
from thunderagent_core.environments.spec import Hook

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path


def tell(path: Path, story: Callable[[House], Awaitable[None]], **settings: Any) -> None:
    async def told() -> None:
        async with House(path, **settings) as house:
            await story(house)

    in_virtual_time(told())


def test_made_in_the_order_of_preparation(tmp_path: Path) -> None:
    async def story(house: House) -> None:
        order = [f"p{number}" for number in (3, 1, 4, 0, 2)]
        for program in sorted(order):
            await house.manager.declare(program, [spec(setup=("sleep 10",))])
        for program in order:
            house.manager.prepare(program)
            house.manager.prepare(program)  # again changes nothing
        await asyncio.sleep(1)
        positions = {view.program_id: view.position for view in house.manager.all_views()}
        assert positions == {"p3": None, "p1": 0, "p4": 1, "p0": 2, "p2": 3}
        await house.until(lambda: all(house.state(program) == "ready" for program in order))
        ready = sorted(house.manager.all_views(), key=lambda view: view.ready_at or 0)
        assert [view.program_id for view in ready] == order
        assert house.manager.statistics().counts.made == 5

    tell(tmp_path, story, max_creations=1)


def test_nothing_is_made_before_it_is_prepared_or_asked_for(tmp_path: Path) -> None:
    async def story(house: House) -> None:
        await house.manager.declare("p", [spec(), spec("other")])
        await asyncio.sleep(100)
        assert house.world.boxes == {}
        await house.run("p", "read")  # never prepared: it is made when it is asked for
        assert (house.state("p"), house.state("p", "other")) == ("in_use", "requested")

    tell(tmp_path, story)


def test_hidden_and_waited_for(tmp_path: Path) -> None:
    async def story(house: House) -> None:
        for program in ("ahead", "late"):
            await house.manager.declare(program, [spec(setup=("sleep 10",))])
        house.manager.prepare("ahead")
        await asyncio.sleep(20)
        for program in ("ahead", "late", "late"):
            await house.run(program, "read")
        counts = house.manager.statistics().counts
        assert (counts.wanted, counts.hidden) == (2, 1)

    tell(tmp_path, story)


def test_a_failing_setup_command_fails_the_environment(tmp_path: Path) -> None:
    async def story(house: House) -> None:
        await house.manager.declare("p", [spec(setup=("fine", "fail no such package", "never"))])
        house.manager.prepare("p")
        with pytest.raises(PreparationError, match=r"no such package.*exit status 3") as caught:
            await house.run("p", "read")
        assert caught.value.cause == "setup_failed"
        await house.until_state("p", "failed")
        (view,) = house.manager.views("p")
        assert (view.code, view.reason) == ("setup_failed", str(caught.value))
        assert house.world.boxes == {}
        assert [command for _, command in house.commands] == ["fine", "fail no such package"]
        before = house.world.calls["create"]
        house.manager.prepare("p")
        with pytest.raises(PreparationError):  # for good: nothing is tried again
            await house.manager.wait_ready("p", "shell", 10)
        assert house.world.calls["create"] == before
        await house.manager.delete("p", "shell")
        await house.manager.declare("p", [spec()])
        await house.run("p", "read")

    tell(tmp_path, story)


def test_a_bad_image_is_permanent_and_a_passing_trouble_is_not(tmp_path: Path) -> None:
    async def story(house: House) -> None:
        faults = house.world.faults
        faults.add(Fault(operation="create", how=How.FAIL, code="image_not_found", permanent=True))
        await house.manager.declare("p", [spec()])
        with pytest.raises(PreparationError) as caught:
            await house.run("p", "read")
        assert caught.value.cause == "image_not_found"
        assert house.world.calls["create"] == 1
        faults.add(Fault(operation="create", how=How.FAIL, moment=Moment.HALFWAY, code="daemon_error", times=3))
        await house.manager.declare("q", [spec()])
        with pytest.raises(PreparationError) as caught:
            await house.run("q", "read")
        assert caught.value.cause == "daemon_error"
        await house.until_state("q", "failed")
        await house.run("q", "read")  # asked for again, it is tried again

    tell(tmp_path, story)


def test_making_takes_too_long(tmp_path: Path) -> None:
    async def story(house: House) -> None:
        await house.manager.declare("p", [spec(setup=("sleep 1000",))])
        with pytest.raises(NotReadyError, match="not ready within 5 s"):
            await house.manager.wait_ready("p", "shell", 5)
        assert house.state("p") == "preparing"  # it goes on
        await asyncio.sleep(60)
        assert house.manager.statistics().counts.failed["creation_timeout"] >= 1
        await house.manager.ended("p", "released")
        await house.until(lambda: not house.manager.all_views())
        house.assert_nothing_left()

    tell(tmp_path, story, creation_timeout_s=20.0)


def test_a_dead_endpoint_does_not_stop_the_others(tmp_path: Path) -> None:
    """One dies in the middle of a creation: another environment is made elsewhere, the remnant goes when it can."""

    async def story(house: House) -> None:
        world = house.world
        world.faults.add(Fault(operation="create", how=How.UNAVAILABLE, moment=Moment.HALFWAY))
        await house.manager.declare("p", [spec()])
        house.manager.prepare("p")
        await house.until(lambda: world.boxes)
        (first,) = world.boxes
        world.down.add(first.endpoint)
        view = await house.manager.wait_ready("p", "shell", 120)
        assert view.endpoint != first.endpoint
        for number in range(5):
            await house.manager.declare(f"q{number}", [spec()])
            await house.run(f"q{number}", "read")
        await house.manager.ended("q0", "released")
        await house.until(lambda: not house.manager.views("q0"), 5)
        assert first in world.boxes
        world.down.clear()
        await house.until(lambda: first not in world.boxes)

    tell(tmp_path, story, world=ScriptedWorld(endpoints=("east", "west")))


def test_spread_over_endpoints(tmp_path: Path) -> None:
    async def story(house: House) -> None:
        for number in range(8):
            await house.manager.declare(f"p{number}", [spec(setup=("sleep 1",))])
            house.manager.prepare(f"p{number}")
        await house.until(lambda: house.manager.statistics().states["ready"] == 8)
        endpoints = [place.endpoint for place in house.world.boxes]
        assert sorted(map(endpoints.count, ("a", "b"))) == [4, 4]

    tell(tmp_path, story, world=ScriptedWorld(endpoints=("a", "b")))


def test_the_daemon_is_down_for_minutes(tmp_path: Path) -> None:
    async def story(house: House) -> None:
        house.world.down.add("")
        await house.manager.declare("p", [spec()])
        waiting = asyncio.ensure_future(house.manager.wait_ready("p", "shell", PATIENCE_S))
        await asyncio.sleep(600)
        assert house.state("p") == "requested"
        house.world.down.clear()
        assert (await waiting).state == "ready"

    tell(tmp_path, story)


def test_queue_and_budget_have_bounds(tmp_path: Path) -> None:
    async def story(house: House) -> None:
        for number in range(6):
            await house.manager.declare(f"p{number}", [spec(setup=("sleep 100",))])
            house.manager.prepare(f"p{number}")
            await asyncio.sleep(0.1)
        assert house.manager.statistics().queued == 3
        with pytest.raises(QueueFullError):
            await house.manager.wait_ready("p5", "shell", 10)
        await house.manager.declare("large", [spec(disk_bytes=2000 * MIB)])
        for number in range(6):
            await house.manager.ended(f"p{number}", "released")
        with pytest.raises(PreparationError, match="more than the whole budget") as caught:
            await house.manager.wait_ready("large", "shell", 10)
        assert caught.value.cause == "disk_over_budget"

    tell(tmp_path, story, max_creations=1, max_queue=3, disk_budget_bytes=1000 * MIB)


def test_hooks_when_ready(tmp_path: Path) -> None:
    async def story(house: House) -> None:
        await house.manager.declare("p", [spec(on_ready=Hook(url="http://here/ready"))])
        view = await house.manager.wait_ready("p", "shell", 10)
        assert house.posts == [
            ("http://here/ready", {"event": "ready", "environment_id": view.id, "name": "shell", "program_id": "p"})
        ]
        await house.manager.declare("q", [spec(on_ready=Hook(command="fail to greet"))])
        with pytest.raises(PreparationError, match="to greet") as caught:
            await house.manager.wait_ready("q", "shell", 10)
        assert caught.value.cause == "hook_failed"
        await house.manager.declare("r", [spec(on_ready=Hook(url="http://here/hang", timeout_s=3))])
        with pytest.raises(PreparationError, match="more than 3 s"):
            await house.manager.wait_ready("r", "shell", 10)
        house.post_status = 500
        await house.manager.declare("s", [spec(on_ready=Hook(url="http://here/broken"))])
        with pytest.raises(PreparationError, match="status 500"):
            await house.manager.wait_ready("s", "shell", 10)

    tell(tmp_path, story)


def test_hooks_before_the_end_do_not_hold_it_up(tmp_path: Path) -> None:
    async def story(house: House) -> None:
        hooks = {
            "hangs": Hook(url="http://here/hang", timeout_s=2),
            "fails": Hook(command="fail bye"),
            "works": Hook(command="write bye"),
        }
        for program, hook in hooks.items():
            await house.manager.declare(program, [spec(on_reclaim=hook)])
            await house.run(program, "read")
        await house.manager.declare("never made", [spec()])
        house.manager.paused("works")
        await house.until_state("works", "paused")
        began = asyncio.get_running_loop().time()
        for program in [*hooks, "never made"]:
            await house.manager.ended(program, "released")
        await house.until(lambda: not house.manager.all_views())
        assert asyncio.get_running_loop().time() - began < 3
        assert [command for _, command in house.commands].count("write bye") == 1  # thawed for it
        assert [url for url, _ in house.posts] == ["http://here/hang"]  # what was never ready is not told of
        house.assert_nothing_left()

    tell(tmp_path, story, on_reclaim=Hook(url="http://here/default"))


def test_what_can_be_declared(tmp_path: Path) -> None:
    async def story(house: House) -> None:
        declare = house.manager.declare
        first = await declare("p", [spec(), spec("other")])
        assert await declare("p", [spec()]) == first
        assert await declare("p", []) == first
        assert {view.name for view in await declare("p", [spec("third")])} == {"shell", "other", "third"}
        with pytest.raises(ConflictError, match="declared differently"):
            await declare("p", [spec(env={"A": "b"})])
        with pytest.raises(ConflictError, match="has the parent None"):
            await declare("p", [spec()], parent_id="q")
        with pytest.raises(ConflictError, match="16 environments"):
            await declare("p", [spec(f"e{number}") for number in range(14)])
        with pytest.raises(UnknownProviderError, match=r"docker.*it runs: scripted"):
            await declare("q", [spec(provider="docker")])
        assert [program.id for program in house.manager.live_programs()] == ["p"]
        with pytest.raises(UnknownProgramError):
            await house.run("q", "read")
        with pytest.raises(UnknownEnvironmentError):
            await house.run("p", "read", "no")
        assert await house.manager.ended("q", "released") is False
        house.manager.prepare("q")
        house.manager.paused("q")
        house.manager.restored("q")

    tell(tmp_path, story)


def test_declared_twice_at_once(tmp_path: Path) -> None:
    async def story(house: House) -> None:
        one, other, ended = await asyncio.gather(
            house.manager.declare("p", [spec()]),
            house.manager.declare("p", [spec(), spec("other")]),
            house.manager.ended("p", "released"),
        )
        assert {view.id for view in one} <= {view.id for view in other}
        assert ended  # it came while the program was being declared, and was heeded all the same
        assert house.manager.live_programs() == []
        await house.until(lambda: not house.manager.all_views())

    tell(tmp_path, story)


def test_the_end_of_a_parent_ends_its_children(tmp_path: Path) -> None:
    async def story(house: House) -> None:
        declare = house.manager.declare
        await declare("parent", [])
        await declare("child", [spec()], parent_id="parent")
        await declare("grandchild", [spec()], parent_id="child")
        await declare("other", [spec()])
        for program in ("child", "grandchild", "other"):
            await house.run(program, "read")
        late = asyncio.ensure_future(declare("late", [spec()], parent_id="parent"))
        await asyncio.sleep(0)
        await house.manager.ended("parent", "released")
        assert [program.id for program in house.manager.live_programs()] == ["other"]
        await asyncio.wait([late])
        await house.until(lambda: len(house.manager.all_views()) == 1)
        assert len(house.world.boxes) == 1

    tell(tmp_path, story)


def test_an_id_may_come_back_after_its_end(tmp_path: Path) -> None:
    async def story(house: House) -> None:
        await house.manager.declare("p", [spec()])
        await house.run("p", "write old")
        house.world.down.add("")
        await house.manager.ended("p", "released")
        await house.manager.declare("p", [spec()])
        assert len(house.manager.views("p")) == 2
        house.world.down.clear()
        assert await house.run("p", "read") == ""
        await house.until(lambda: len(house.manager.views("p")) == 1)
        assert house.state("p") == "in_use"

    tell(tmp_path, story)
