"""Clients that go away: the engine stops working for them, and nothing is left open."""

from __future__ import annotations

import asyncio

import pytest
from scripted_engine import EVENTS, JSON, Gate, answer, delta
from server_tools import CHAT, HANG_S, messages, soon, text_of

from thunderagent_core.transport.client import ConnectionPool

LEAVING = ["close", "vanish"]


async def leave(client, how: str) -> None:
    if how == "vanish":
        client.vanish()
    await client.close()


async def check_settled(run, program: str, engine) -> None:
    await run.idle()
    await soon(lambda: engine.open == 0)
    view = await run.program(program)
    assert (view["phase"], view["in_flight"], view["held"], view["steps"]) == ("acting", 0, 0, 0)
    run.scheduler.check()


@pytest.mark.parametrize("how", LEAVING)
@pytest.mark.parametrize("stream", [False, True])
async def test_fault_03_phantom_program_after_disconnect_before_the_first_byte(engine, serve, raw, how, stream):
    engine.reply = gate = Gate()
    run = await serve(engine)
    client = await raw(run.port)
    client.post(CHAT, messages(program_id="p", stream=stream))
    await soon(lambda: gate.arrived == 1)
    assert (await run.program("p"))["phase"] == "reasoning"
    await leave(client, how)
    await check_settled(run, "p", engine)
    assert engine.broken_off == 1
    assert run.runtime.outcomes == {"disconnected": 1}


@pytest.mark.parametrize("how", LEAVING)
async def test_fault_03_phantom_program_after_disconnect_in_a_stream(engine, serve, raw, how):
    engine.reply = Gate(first=delta("first"))
    run = await serve(engine)
    client = await raw(run.port)
    client.post(CHAT, messages(program_id="p", stream=True))
    await client.until(b"first")
    await leave(client, how)
    await check_settled(run, "p", engine)
    assert engine.broken_off == 1
    assert run.runtime.outcomes == {"disconnected": 1}
    assert (await run.program("p"))["context_tokens"] > 0, "what the engine has in its cache counts"


@pytest.mark.parametrize("how", LEAVING)
async def test_fault_03_phantom_program_after_disconnect_in_a_whole_answer(engine, serve, raw, how):
    begun = asyncio.Event()

    async def reply(_engine, _request, respond):
        respond.start(200, JSON, length=1000)
        respond.write(b'{"choices":')
        begun.set()
        await asyncio.Event().wait()

    engine.reply = reply
    run = await serve(engine)
    client = await raw(run.port)
    client.post(CHAT, messages(program_id="p"))
    await begun.wait()
    await leave(client, how)
    await check_settled(run, "p", engine)
    assert engine.broken_off == 1


@pytest.mark.parametrize("how", LEAVING)
async def test_fault_03_phantom_program_after_disconnect_while_held(engine_factory, serve, raw, how):
    engine = await engine_factory(capacity_tokens=1000)
    engine.reply = gate = Gate()
    run = await serve(engine, decay_base=1.0, tick_s=1000.0)
    first = run.asking("a", text_of(600))
    await soon(lambda: gate.arrived == 1)
    client = await raw(run.port)
    client.post(CHAT, messages(text_of(600), program_id="b"))
    await soon(lambda: run.held() == 1)
    await leave(client, how)
    await soon(lambda: run.held() == 0)
    view = await run.program("b")
    assert (view["phase"], view["status"], view["waiting_s"]) == ("acting", "paused", 0.0)
    assert (await run.get("/scheduling"))["waiting"] == 0
    gate.open()
    assert (await first).status_code == 200
    assert len(engine.seen) == 1


async def test_fault_03_a_slow_reader_that_goes_away(engine, serve, raw):
    async def reply(_engine, _request, respond):
        respond.start(200, EVENTS)
        while True:
            respond.write(delta("x" * 10_000))
            await respond.drain()
            await asyncio.sleep(0)

    engine.reply = reply
    run = await serve(engine)
    client = await raw(run.port)
    client.post(CHAT, messages(program_id="p", stream=True))
    await client.head()
    await leave(client, "vanish")
    await check_settled(run, "p", engine)


async def test_fault_03_passed_through_requests_end_too(engine, serve, raw):
    async def reply(_engine, _request, respond):
        respond.start(200, JSON)
        respond.write(b"part")
        await asyncio.Event().wait()

    engine.reply = reply
    run = await serve(engine)
    client = await raw(run.port)
    client.post("/v1/embeddings", {"input": "x"})
    await client.until(b"part")
    await leave(client, "close")
    await run.idle()
    await soon(lambda: engine.broken_off == 1)
    assert run.runtime.outcomes == {"disconnected": 1}


async def test_fault_03_many_clients_come_and_go(engine, serve):
    async def reply(engine, request, respond):
        await asyncio.sleep(0.005)
        await answer(engine, request, respond)

    engine.reply = reply
    run = await serve(engine)
    calls = [run.asking(f"p{n % 7}", stream=n % 2 == 0) for n in range(120)]
    for number, call in enumerate(calls):
        await asyncio.sleep(0)
        if number % 3 == 0:
            call.cancel()
    outcomes = await asyncio.gather(*calls, return_exceptions=True)
    assert {o.status_code for o in outcomes if not isinstance(o, BaseException)} == {200}
    await run.idle()
    assert {p["phase"] for p in (await run.get("/programs"))["programs"]} == {"acting"}
    assert run.runtime.outcomes["completed"] >= 80


@pytest.mark.parametrize("turns", range(8))
async def test_requests_that_end_while_they_connect_leave_no_connection(engine, turns):
    pool = ConnectionPool(engine.url)
    calls = [asyncio.create_task(pool.request("GET", "/v1/x", [], b"")) for _ in range(5)]
    for _ in range(turns):
        await asyncio.sleep(0)
    for call in calls:
        call.cancel()
    await asyncio.gather(*calls, return_exceptions=True)
    async with asyncio.timeout(HANG_S):
        await pool.aclose()


async def test_fault_04_a_program_reasons_while_any_of_its_requests_is_open(engine, serve, raw):
    gates = [Gate(), Gate(), Gate()]

    async def reply(engine, request, respond):
        await gates[int(request.header(b"x-turn"))](engine, request, respond)

    engine.reply = reply
    run = await serve(engine)
    clients = [await raw(run.port) for _ in gates]
    for number, client in enumerate(clients):
        client.post(CHAT, messages(text_of(100), program_id="p"), f"X-Turn: {number}")
    await soon(lambda: all(gate.arrived for gate in gates))
    view = await run.program("p")
    assert (view["phase"], view["in_flight"]) == ("reasoning", 3)
    assert view["context_tokens"] >= 300, "every open request holds its own context"
    gates[1].open()
    await clients[1].head()
    await soon(lambda: run.scheduler.open_requests == 2)
    await leave(clients[0], "close")
    await soon(lambda: run.scheduler.open_requests == 1)
    assert (await run.program("p"))["phase"] == "reasoning"
    gates[2].open()
    await clients[2].head()
    await run.idle()
    view = await run.program("p")
    assert (view["phase"], view["in_flight"], view["steps"]) == ("acting", 0, 2)
    assert 100 <= view["context_tokens"] < 200
    gates[0].open()
