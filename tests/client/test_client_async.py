"""The asynchronous client does what the other one does, and survives cancellation."""

from __future__ import annotations

import asyncio
import inspect

import pytest
from client_fakes import broken, error, silent, stream

from thunderagent_core.client import AsyncClient, AsyncProgram, Client, Program, ServerError, StreamInterruptedError

BOTH_ENDS = ["POST /programs", "POST /programs/release"]


@pytest.mark.parametrize(("sync", "asynchronous"), [(Client, AsyncClient), (Program, AsyncProgram)])
def test_both_kinds_have_the_same_methods(sync, asynchronous):
    def methods(kind):
        return {
            name.removeprefix("a") if name == "aclose" else name: list(inspect.signature(member).parameters.values())
            for name, member in vars(kind).items()
            if callable(member) and not name.startswith("_")
        }

    ours, theirs = methods(sync), methods(asynchronous)
    assert list(ours) == list(theirs)
    for name, parameters in ours.items():
        assert [(p.name, p.default, p.kind) for p in parameters] == [(p.name, p.default, p.kind) for p in theirs[name]]


async def test_a_program_lives_as_long_as_its_block(aclient, server):
    async with aclient.program("p") as program:
        await program.chat(messages=[], model="m")
        async with program.tool("bash"):
            pass
    assert server.lines == [
        BOTH_ENDS[0],
        "POST /v1/chat/completions",
        "POST /programs/p/events",
        "POST /programs/p/events",
        BOTH_ENDS[1],
    ]


async def test_released_when_cancelled(aclient, server):
    entered = asyncio.Event()

    async def agent():
        async with aclient.program("p"):
            entered.set()
            await asyncio.Event().wait()

    task = asyncio.create_task(agent())
    await entered.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert server.lines == BOTH_ENDS


async def test_released_when_cancelled_again_and_again(aclient, server):
    entered = asyncio.Event()

    async def agent():
        async with aclient.program("p"):
            entered.set()
            await asyncio.Event().wait()

    task = asyncio.create_task(agent())
    await entered.wait()
    while not task.done():
        task.cancel()
        await asyncio.sleep(0)
    assert task.cancelled()
    assert server.lines == BOTH_ENDS


async def test_a_cancelled_registration_is_undone(aclient, server):
    server.then("POST /programs", silent)

    async def agent():
        async with aclient.program("p"):
            pytest.fail("the block must not run")

    task = asyncio.create_task(agent())
    await asyncio.to_thread(server.wait_for, 1)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert server.lines == BOTH_ENDS


async def test_a_time_limit_on_the_block_still_works(aclient, server):
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0), aclient.program("p"):
            await asyncio.Event().wait()
    assert server.lines[-1] == BOTH_ENDS[1]


async def test_a_failing_release_hides_nothing(aclient, server, caplog):
    server.then("POST /programs/release", broken, broken)
    with pytest.raises(ZeroDivisionError):
        async with aclient.program("p"):
            _ = 1 / 0
    assert "could not release p" in caplog.text


async def test_streams(aclient, server):
    server.then("POST /v1/chat/completions", stream({"n": 1}, {"n": 2}), stream({"n": 1}, end=b""))
    async with aclient.program("p") as program:
        chunks = await program.chat(messages=[], stream=True)
        assert [chunk async for chunk in chunks] == [{"n": 1}, {"n": 2}]
        async with await program.chat(messages=[], stream=True) as cut:
            assert await anext(cut) == {"n": 1}
            with pytest.raises(StreamInterruptedError):
                await anext(cut)


async def test_an_error_in_a_stream_is_raised(aclient, server):
    server.then("POST /v1/completions", stream(b'event: error\ndata: {"message": "engine died"}\n\n', end=b""))
    chunks = await aclient.completions(prompt="hi", stream=True)
    with pytest.raises(ServerError, match="engine died"):
        await anext(chunks)


async def test_retries(aclient, server, waits):
    server.then("GET /programs/p", error(503, retry_after="7"), broken)
    assert (await aclient.get("p")).program_id == "p"
    assert waits == [7.0, 1.0]


async def test_many_programs_at_once(aclient, server):
    async def agent(number):
        async with aclient.program(f"p{number}") as program:
            await program.chat(messages=[])

    await asyncio.gather(*(agent(number) for number in range(30)))
    assert [server.lines.count(line) for line in BOTH_ENDS] == [30, 30]


async def test_the_rest_of_the_routes(aclient, server):
    assert (await aclient.programs()).waiting == 1
    assert await aclient.backends() == ()
    assert await aclient.ready()
    await aclient.health()
    assert await aclient.release("p")
