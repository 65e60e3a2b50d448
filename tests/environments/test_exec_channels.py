"""How many channels there are, who waits for them, and what becomes of those that cannot be used."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest
from contract import DEADLINE_S, WORKDIR, eventually
from contract_exec import begun, idle, out, sh
from scripted_bed import PLACE, scripted_environment

from thunderagent_core.environments.base import ProviderError, ProviderUnavailableError
from thunderagent_core.environments.channels import MAX_RETIRED, PoolLimits
from thunderagent_core.environments.exec import EnvironmentDiedError, ExecError, ExecRequest, Executor
from thunderagent_core.environments.scripted.faults import Fault, How, Moment

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from thunderagent_core.environments.scripted.provider import ScriptedProvider


@pytest.fixture
async def provider() -> AsyncIterator[ScriptedProvider]:
    async with scripted_environment() as provider:
        yield provider


async def executor_of(provider: ScriptedProvider, **limits) -> Executor:
    return Executor(provider, PLACE, workdir=WORKDIR, pool=PoolLimits(**limits), grace_s=0.3)


def spawned(provider: ScriptedProvider) -> int:
    return provider._world.calls["spawn"]


async def test_one_after_another_needs_one_channel(provider: ScriptedProvider) -> None:
    executor = await executor_of(provider)
    for _ in range(30):
        await out(executor, "true")
    assert spawned(provider) == 1
    await executor.aclose()


async def test_channels_are_bounded_and_used_again(provider: ScriptedProvider) -> None:
    executor = await executor_of(provider, max_channels=3)
    for _ in range(2):
        await asyncio.gather(*(out(executor, "sleep 0.05") for _ in range(9)))
    assert spawned(provider) == 3
    await executor.aclose()


async def test_a_wait_for_a_channel_is_bounded(provider: ScriptedProvider) -> None:
    executor = await executor_of(provider, max_channels=1, wait_s=0.2)
    first = asyncio.create_task(sh(executor, "sleep 1000"))
    await eventually(lambda: running(executor, 1))
    with pytest.raises(ExecError) as caught:
        await sh(executor, "true")
    assert caught.value.code == "busy"
    first.cancel()
    await asyncio.wait([first])
    await eventually(lambda: idle(executor))
    await executor.aclose()


async def running(executor: Executor, count: int) -> bool:
    return sum(channel is not None for channel in executor._running.values()) == count


async def test_those_who_wait_are_counted(provider: ScriptedProvider) -> None:
    executor = await executor_of(provider, max_channels=1, max_waiting=2)
    tasks = [asyncio.create_task(sh(executor, "sleep 0.1")) for _ in range(2)]
    await asyncio.sleep(0)
    with pytest.raises(ExecError) as caught:
        await sh(executor, "true")
    assert caught.value.code == "busy"
    await asyncio.gather(*tasks)
    await executor.aclose()


async def test_who_gives_up_waiting_takes_no_channel_with_them(provider: ScriptedProvider) -> None:
    gate = asyncio.Event()
    provider._world.faults.add(Fault(operation="spawn", how=How.WAIT, gate=gate))
    executor = await executor_of(provider, max_channels=1)
    gone = asyncio.create_task(sh(executor, "touch never"))
    await asyncio.sleep(0.01)
    gone.cancel()
    await asyncio.wait([gone])
    assert executor.active == 0
    gate.set()
    assert await out(executor, "ls") == ""
    assert spawned(provider) == 1
    await executor.aclose()


async def test_channels_without_work_are_closed_after_a_while(provider: ScriptedProvider) -> None:
    executor = await executor_of(provider, idle_s=0.2)
    await asyncio.gather(*(out(executor, "sleep 0.05") for _ in range(3)))

    async def closed() -> bool:
        return not executor._pool._live and not executor._pool._idle

    await eventually(closed)
    assert await out(executor, "echo on") == "on"
    await executor.aclose()


async def test_held_channels_are_bounded_and_come_back_when_they_are_free(provider: ScriptedProvider) -> None:
    executor = await executor_of(provider, max_channels=1)
    for _ in range(MAX_RETIRED + 3):
        await out(executor, "while ! [ -e end ]; do sleep 0.05; done & echo begun")
    assert len(executor._pool._retired) <= MAX_RETIRED
    await out(executor, "touch end")

    async def recovered() -> bool:
        executor._pool._idle and executor._pool._retire(executor._pool._idle.pop()[0])
        before = spawned(provider)
        await out(executor, "true")
        return spawned(provider) == before

    await eventually(recovered)
    await executor.aclose()


async def test_a_retired_channel_is_drained(provider: ScriptedProvider) -> None:
    """A process left behind that writes a lot must not stand still because nobody reads."""
    executor = await executor_of(provider)
    await out(executor, "(head -c 5000000 /dev/zero; touch written; sleep 1000) & echo begun")

    async def written() -> bool:
        return await out(executor, "ls") == "written"

    await eventually(written)
    await executor.aclose()


async def test_every_caller_learns_why_no_shell_could_be_started(provider: ScriptedProvider) -> None:
    executor = await executor_of(provider, max_channels=2)
    provider._world.faults.add(Fault(operation="spawn", how=How.FAIL, times=5, code="odd"))
    results = await asyncio.gather(*(sh(executor, "true") for _ in range(5)), return_exceptions=True)
    assert {type(each) for each in results} == {ProviderError}
    assert await out(executor, "echo on") == "on"
    provider._world.down.add("")
    executor._pool._prune()
    assert await out(executor, "echo on") == "on"  # over the channel that is open
    await executor.aclose()


async def test_an_unreachable_provider_is_no_dead_environment(provider: ScriptedProvider) -> None:
    executor = await executor_of(provider)
    provider._world.down.add("")
    with pytest.raises(ProviderUnavailableError):
        await sh(executor, "true")
    provider._world.down.clear()
    await provider._world.vanish(PLACE)
    with pytest.raises(EnvironmentDiedError):
        await sh(executor, "true")
    await executor.aclose()


async def test_a_command_that_cannot_be_ended_is_given_up(provider: ScriptedProvider) -> None:
    executor = await executor_of(provider)
    await out(executor, "true")
    provider._world.faults.add(Fault(operation="spawn", how=How.FAIL))
    with pytest.raises(ExecError) as caught:
        await sh(executor, "sleep 1000", timeout_s=0.2)
    assert caught.value.code == "kill_failed"
    assert executor.active == 0
    assert await out(executor, "echo on") == "on"
    await executor.aclose()


async def test_a_spawn_whose_answer_is_lost_leaves_no_shell(provider: ScriptedProvider) -> None:
    executor = await executor_of(provider)
    provider._world.faults.add(Fault(operation="spawn", how=How.UNAVAILABLE, moment=Moment.AFTER))
    with pytest.raises(ProviderUnavailableError):
        await sh(executor, "true")
    assert await out(executor, "echo on") == "on"
    await executor.aclose()


async def test_the_answer_can_be_read_late(provider: ScriptedProvider) -> None:
    """A stream that is full stops its command only, and not for ever."""
    executor = await executor_of(provider, max_channels=2)
    stream = executor.stream(ExecRequest(command="head -c 3000000 /dev/zero", output_limit_bytes=4 << 20))
    size = len((await anext(stream)).data)
    assert await out(executor, "echo on") == "on"
    async with asyncio.timeout(DEADLINE_S):
        async for item in stream:
            size += len(getattr(item, "data", b""))
    assert size == 3_000_000
    await executor.aclose()


@pytest.mark.parametrize(
    "request_",
    [
        ExecRequest(command="true", timeout_s=0),
        ExecRequest(command="true", timeout_s=601),
        ExecRequest(command="true", timeout_s=float("nan")),
        ExecRequest(command="true", output_limit_bytes=-1),
        ExecRequest(command="true", output_limit_bytes=1 << 30),
        ExecRequest(command="true", workdir="a\0b"),
        ExecRequest(command=""),
    ],
)
async def test_requests_that_cannot_be(provider: ScriptedProvider, request_: ExecRequest) -> None:
    executor = await executor_of(provider)
    with pytest.raises(ExecError) as caught:
        await executor.run(request_)
    assert caught.value.code == "bad_command"
    with pytest.raises(ExecError):
        await anext(executor.stream(request_))
    assert (executor.active, spawned(provider)) == (0, 0)
    await executor.aclose()


async def test_an_output_limit_of_nothing(provider: ScriptedProvider) -> None:
    executor = await executor_of(provider)
    result = await sh(executor, "echo text", output_limit_bytes=0)
    assert (result.stdout, result.dropped_stdout) == (b"", 5)
    await executor.aclose()


async def test_closing_twice_and_while_somebody_waits(provider: ScriptedProvider) -> None:
    executor = await executor_of(provider, max_channels=1)
    first = asyncio.create_task(sh(executor, "touch begun; sleep 1000"))
    other = Executor(provider, PLACE, workdir=WORKDIR)
    await eventually(lambda: begun(other))
    waiting = asyncio.create_task(sh(executor, "true"))
    await asyncio.sleep(0)
    await asyncio.gather(executor.aclose(), executor.aclose())
    with pytest.raises(ExecError) as caught:
        await waiting
    assert caught.value.code == "closed"
    assert (await first).exit_code == 143
    await other.aclose()
