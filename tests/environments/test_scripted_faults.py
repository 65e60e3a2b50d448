"""A scripted world goes wrong as it is told to: at the right moment, with the right effect left behind."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest
from scripted_bed import INSTALLATION, PLACE, plan, until

from thunderagent_core.environments.base import Kind, Liveness, Place, ProviderError, ProviderUnavailableError
from thunderagent_core.environments.scripted.faults import OPERATIONS, TWO_STEPS, Crash, Fault, How, Moment
from thunderagent_core.environments.scripted.provider import ScriptedProvider
from thunderagent_core.environments.scripted.world import ScriptedWorld

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

LABELS = plan().labels
RAISED = {How.FAIL: ProviderError, How.UNAVAILABLE: ProviderUnavailableError, How.CRASH: Crash}


@pytest.fixture
async def world() -> AsyncIterator[ScriptedWorld]:
    world = ScriptedWorld()
    yield world
    await world.aclose()


@pytest.fixture
def provider(world: ScriptedWorld) -> ScriptedProvider:
    return ScriptedProvider(world, installation=INSTALLATION)


async def perform(provider: ScriptedProvider, operation: str) -> None:
    """Call an operation on one environment, whose snapshot has its name."""
    match operation:
        case "create":
            await provider.create(plan())
        case "snapshot":
            await provider.snapshot(PLACE, "s", LABELS)
        case "snapshot_is_whole" | "drop_snapshot":
            await getattr(provider, operation)("", "s")
        case "stored_image" | "drop_image":
            await getattr(provider, operation)("", "image")
        case "pull":
            await provider.create(plan("e2", image="image"))
        case "survey":
            await provider.survey("")
        case "rooms":
            await provider.rooms()
        case "spawn":
            process = await provider.spawn(PLACE, ("true",))
            await process.aclose()
        case _:
            await getattr(provider, operation)(PLACE)


@pytest.mark.parametrize("how", list(RAISED))
@pytest.mark.parametrize("operation", sorted(OPERATIONS))
async def test_before_the_effect_nothing_happens(
    world: ScriptedWorld, provider: ScriptedProvider, operation: str, how: How
) -> None:
    if operation != "create":
        await provider.create(plan())
        await provider.snapshot(PLACE, "s", LABELS)
    effects = list(world.effects)
    world.faults.add(Fault(operation=operation, how=how))
    if operation == "look" and how is not How.CRASH:
        assert (await provider.look(PLACE)).liveness is Liveness.UNKNOWN
    else:
        with pytest.raises(RAISED[how]):
            await perform(provider, operation)
    assert list(world.effects) == effects
    await perform(provider, operation)  # once only


@pytest.mark.parametrize("how", list(RAISED))
@pytest.mark.parametrize(
    ("operation", "effect"),
    [("create", "started"), ("freeze", "frozen"), ("snapshot", "snapshotted"), ("destroy", "destroyed")],
)
async def test_after_the_effect_it_has_happened(
    world: ScriptedWorld, provider: ScriptedProvider, operation: str, effect: str, how: How
) -> None:
    if operation != "create":
        await provider.create(plan())
    world.faults.add(Fault(operation=operation, how=how, moment=Moment.AFTER))
    with pytest.raises(RAISED[how]):
        await perform(provider, operation)
    assert world.effects[-1].name == effect
    await perform(provider, operation)  # it may be repeated


class TestHalfway:
    async def test_create(self, world: ScriptedWorld, provider: ScriptedProvider) -> None:
        world.faults.add(Fault(operation="create", how=How.CRASH, moment=Moment.HALFWAY))
        with pytest.raises(Crash):
            await provider.create(plan())
        assert (await provider.look(PLACE)).liveness is Liveness.STOPPED
        (found,) = await provider.survey("")
        assert (found.kind, found.environment_id) == (Kind.ENVIRONMENT, "e1")
        assert (await provider.create(plan())).liveness is Liveness.ALIVE
        assert [effect.name for effect in world.effects] == ["made", "started"]

    async def test_snapshot(self, world: ScriptedWorld, provider: ScriptedProvider) -> None:
        await provider.create(plan())
        world.faults.add(Fault(operation="snapshot", how=How.UNAVAILABLE, moment=Moment.HALFWAY))
        with pytest.raises(ProviderUnavailableError):
            await provider.snapshot(PLACE, "s", LABELS)
        assert not await provider.snapshot_is_whole("", "s")
        assert [found.name for found in await provider.survey("")] == [PLACE.handle, "s"]
        with pytest.raises(ProviderError) as caught:
            await provider.create(plan("e2", snapshot="s"))
        assert caught.value.code == "snapshot_not_found"
        await provider.snapshot(PLACE, "s", LABELS)
        assert await provider.snapshot_is_whole("", "s")

    async def test_destroy(self, world: ScriptedWorld, provider: ScriptedProvider) -> None:
        await provider.create(plan())
        world.faults.add(Fault(operation="destroy", how=How.FAIL, moment=Moment.HALFWAY))
        with pytest.raises(ProviderError):
            await provider.destroy(PLACE)
        assert (await provider.look(PLACE)).liveness is Liveness.STOPPED
        await provider.destroy(PLACE)
        assert world.destroyed() == [PLACE.handle]


class TestOtherTrouble:
    async def test_waiting_at_a_gate(self, world: ScriptedWorld, provider: ScriptedProvider) -> None:
        gate = asyncio.Event()
        world.faults.add(Fault(operation="create", how=How.WAIT, gate=gate, moment=Moment.HALFWAY))
        making = asyncio.create_task(provider.create(plan()))
        await until(lambda: "made" in [effect.name for effect in world.effects])
        assert (await provider.look(PLACE)).liveness is Liveness.STOPPED
        gate.set()
        assert (await making).liveness is Liveness.ALIVE

    async def test_cancelled_at_a_gate_it_is_half_made(self, world: ScriptedWorld, provider: ScriptedProvider) -> None:
        world.faults.add(Fault(operation="create", how=How.WAIT, gate=asyncio.Event(), moment=Moment.HALFWAY))
        making = asyncio.create_task(provider.create(plan()))
        await asyncio.wait([making], timeout=0.01)
        making.cancel()
        await asyncio.wait([making])
        assert (await provider.look(PLACE)).liveness is Liveness.STOPPED

    async def test_an_environment_is_forgotten(self, world: ScriptedWorld, provider: ScriptedProvider) -> None:
        await provider.create(plan())
        world.faults.add(Fault(operation="freeze", how=How.FORGET))
        with pytest.raises(ProviderError) as caught:
            await provider.freeze(PLACE)
        assert caught.value.code == "environment_gone"
        assert (await provider.look(PLACE)).liveness is Liveness.GONE

    async def test_only_the_one_that_is_meant(self, world: ScriptedWorld, provider: ScriptedProvider) -> None:
        other = plan("e2")
        world.faults.add(Fault(operation="create", how=How.FAIL, handle=other.place.handle, times=2, code="odd"))
        await provider.create(plan())
        for _ in range(2):
            with pytest.raises(ProviderError) as caught:
                await provider.create(other)
            assert caught.value.code == "odd"
        await provider.create(other)

    async def test_cleared_nothing_goes_wrong(self, world: ScriptedWorld, provider: ScriptedProvider) -> None:
        world.faults.add(Fault(operation="create", how=How.CRASH))
        world.faults.clear()
        await provider.create(plan())

    @pytest.mark.parametrize(
        "wrong",
        [
            {"operation": "crate", "how": How.FAIL},
            {"operation": "look", "how": How.FAIL, "moment": Moment.HALFWAY},
            {"operation": "look", "how": How.WAIT},
            {"operation": "look", "how": How.FAIL, "gate": asyncio.Event()},
        ],
    )
    def test_a_fault_that_cannot_strike_is_refused(self, wrong: dict) -> None:
        with pytest.raises(ValueError, match=r"."):
            Fault(**wrong)
        assert TWO_STEPS < OPERATIONS


class TestDaemons:
    async def test_one_that_is_down_answers_nothing(self, world: ScriptedWorld, provider: ScriptedProvider) -> None:
        await provider.create(plan())
        world.down.add("")
        assert (await provider.look(PLACE)).liveness is Liveness.UNKNOWN
        for operation in sorted(OPERATIONS - {"look"}):
            with pytest.raises(ProviderUnavailableError):
                await perform(provider, operation)
        world.down.clear()
        assert (await provider.look(PLACE)).liveness is Liveness.ALIVE

    async def test_it_may_go_down_after_an_effect(self, world: ScriptedWorld, provider: ScriptedProvider) -> None:
        gate = asyncio.Event()
        world.faults.add(Fault(operation="create", how=How.WAIT, gate=gate, moment=Moment.AFTER))
        making = asyncio.create_task(provider.create(plan()))
        await until(lambda: "started" in [effect.name for effect in world.effects])
        world.down.add("")
        gate.set()
        with pytest.raises(ProviderUnavailableError):
            await making

    async def test_one_of_several(self) -> None:
        world = ScriptedWorld(endpoints=("a", "b"))
        provider = ScriptedProvider(world, installation=INSTALLATION)
        await provider.create(plan("e1", endpoint="a"))
        world.down.add("a")
        assert [room.endpoint for room in await provider.rooms()] == ["b"]
        await provider.create(plan("e1", endpoint="b"))
        assert len(await provider.survey("b")) == 1
        with pytest.raises(ProviderError) as caught:
            await provider.survey("c")
        assert caught.value.code == "unknown_endpoint"

    async def test_restarted_its_environments_are_stopped(self, world: ScriptedWorld, provider) -> None:
        await provider.create(plan(ports=(80,)))
        await provider.freeze(PLACE)
        world.down.add("")
        await world.restart("")
        assert (await provider.look(PLACE)).liveness is Liveness.STOPPED
        assert (await provider.start(PLACE)).liveness is Liveness.ALIVE

    async def test_best_endpoint_first(self) -> None:
        world = ScriptedWorld(endpoints=("a", "b"), disk_bytes=1000)
        provider = ScriptedProvider(world, installation=INSTALLATION)
        await provider.create(plan(endpoint="a"))
        world.boxes[Place("a", PLACE.handle)].files.ballast_bytes = 600
        rooms = await provider.rooms()
        assert [(room.endpoint, room.free_disk_bytes, room.environments) for room in rooms] == [
            ("b", 1000, 0),
            ("a", 400, 1),
        ]
