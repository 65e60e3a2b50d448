"""Programs over an engine's capacity are held, in silence, for no longer than they can bear."""

from __future__ import annotations

import asyncio
import random

import pytest
from scripted_engine import Gate, answer
from server_tools import CHAT, messages, soon, text_of

from thunderagent_core.scheduling.events import ProgramInterrupted, ProgramRegistered

FULL = {"capacity_tokens": 1000}
NEVER = {"decay_base": 1.0, "tick_s": 1000.0}
"""Neither decay nor tick: only events let anybody in."""


@pytest.fixture
async def full(engine_factory, serve):
    """A server whose one engine is full: program a holds 600 of 1,000 tokens and runs."""
    engine = await engine_factory(**FULL)
    engine.reply = gate = Gate()
    run = await serve(engine, **NEVER)
    first = run.asking("a", text_of(600))
    await soon(lambda: gate.arrived == 1)
    yield run, engine, gate, first
    gate.open()
    assert (await first).status_code == 200


async def test_nothing_is_sent_before_the_request_is_admitted(full, raw):
    run, engine, gate, first = full
    client = await raw(run.port)
    client.post(CHAT, {**messages(text_of(600)), "program_id": "b"})
    await soon(lambda: run.held() == 1)
    assert (await run.program("b"))["status"] == "paused"
    assert (await run.get("/scheduling"))["waiting"] == 1
    gate.open()
    await first
    await soon(lambda: run.scheduler.open_requests == 1)
    assert client.nothing_yet()
    assert len(engine.seen) == 1
    await run.release("a")
    assert (await client.head()).startswith(b"HTTP/1.1 200 ")
    await run.idle()
    assert (await run.program("b"))["longest_wait_s"] > 0


async def test_fault_06_room_is_used_at_once_and_not_at_the_next_tick(full):
    run, _engine, gate, _first = full
    waiting = [run.asking(name, text_of(600)) for name in ("b", "c")]
    await soon(lambda: run.held() == 2)
    gate.open()
    for name in ("a", "b", "c"):
        await soon(lambda name=name: name in run.scheduler.programs and run.scheduler.programs[name].steps == 1)
        await run.release(name)
    assert [r.status_code for r in await asyncio.gather(*waiting)] == [200, 200]


async def test_decay_alone_lets_the_next_one_in(engine_factory, serve):
    engine = await engine_factory(**FULL)
    run = await serve(engine, tick_s=1000.0, decay_interval_s=0.02)
    assert (await run.chat("a", text_of(600))).status_code == 200
    assert (await run.chat("b", text_of(600))).status_code == 200


async def test_fault_07_the_bound_on_waiting_holds(engine_factory, serve):
    engine = await engine_factory(**FULL)
    engine.reply = gate = Gate()
    run = await serve(engine, **NEVER, max_wait_s=0.3)
    tasks = [run.asking("a", text_of(600))]
    await soon(lambda: gate.arrived == 1)
    tasks.append(run.asking("b", text_of(900)))
    await soon(lambda: gate.arrived == 2)
    gate.open()
    assert [r.status_code for r in await asyncio.gather(*tasks)] == [200, 200]


async def test_impatient_clients_are_told_in_time_and_keep_their_place(full):
    run, engine, gate, _first = full
    body = {**messages(text_of(600)), "program_id": "b"}
    headers = {"x-stainless-read-timeout": "1"}
    response = await run.client.post(CHAT, json=body, headers=headers)
    assert response.status_code == 503
    assert response.json()["error"]["code"] == "held_too_long"
    assert 1 <= int(response.headers["retry-after"]) <= 30
    assert response.headers["x-should-retry"] == "true"
    assert run.steps("RequestArrived")[-1]["patience_s"] == 0.5, "the answer comes before the time-out of 1 s"
    program = await run.program("b")
    assert (program["held"], program["phase"], program["status"]) == (0, "acting", "paused")
    assert len(engine.seen) == 1
    gate.open()
    again = run.asking("b", text_of(600))
    await soon(lambda: run.held() == 1)
    assert (await run.program("b"))["waiting_s"] >= 0.5, "the wait goes on where it was broken off"
    await run.release("a")
    assert (await again).status_code == 200


@pytest.mark.parametrize(
    ("headers", "patience"),
    [
        ({}, None),
        ({"x-stainless-read-timeout": "600"}, 595.0),
        ({"x-stainless-read-timeout": "600.0"}, 595.0),
        ({"x-stainless-timeout": "60"}, 55.0),
        ({"x-stainless-timeout": "20", "x-stainless-read-timeout": "600"}, 15.0),
        ({"x-stainless-read-timeout": "6"}, 3.0),
        ({"x-stainless-read-timeout": "0"}, None),
        ({"x-stainless-read-timeout": "-5"}, None),
        ({"x-stainless-read-timeout": "nan"}, None),
        ({"x-stainless-read-timeout": "inf"}, None),
        ({"x-stainless-read-timeout": "None"}, None),
    ],
)
async def test_how_patient_a_client_is(engine, serve, headers, patience):
    run = await serve(engine)
    await run.client.post(CHAT, json=messages(program_id="p"), headers=headers)
    assert run.steps("RequestArrived")[-1]["patience_s"] == patience


async def test_releasing_a_program_refuses_what_it_holds_and_lets_the_rest_finish(full):
    run, engine, gate, _first = full
    waiting = [run.asking("b", text_of(600)) for _ in range(3)]
    await soon(lambda: run.held() == 3)
    assert (await run.release("b")).json() == {"program_id": "b", "released": True}
    for response in await asyncio.gather(*waiting):
        assert response.status_code == 410
        assert response.headers["x-should-retry"] == "false"
        assert response.json()["error"]["code"] == "program_released"
    assert len(engine.seen) == 1
    assert (await run.release("a")).json()["released"] is True
    assert run.scheduler.open_requests == 1, "what is in flight runs on"
    gate.open()


async def test_a_program_that_idles_gives_its_place_away(full):
    run, _engine, gate, first = full
    gate.open()
    await first
    waiting = run.asking("b", text_of(600))
    await soon(lambda: run.held() == 1)
    assert (await run.client.post("/programs/a/events", json={"type": "idle"})).status_code == 202
    assert (await waiting).status_code == 200
    assert (await run.program("a"))["status"] == "paused"


async def test_fault_09_a_program_that_was_never_released_is_ended_and_makes_room(engine_factory, serve):
    engine = await engine_factory(**FULL)
    run = await serve(engine, **NEVER, idle_lease_s=0.4)
    await run.chat("forgotten", text_of(600))
    assert (await run.chat("next", text_of(600))).status_code == 200, "it was admitted once the lease had run out"
    assert "forgotten" in run.runtime.ended
    assert (await run.release("forgotten")).json()["released"] is False
    await soon(lambda: not run.scheduler.programs)


async def test_fault_09_a_lease_does_not_end_what_is_in_flight_or_interrupted(engine, serve):
    engine.reply = gate = Gate()
    run = await serve(engine, idle_lease_s=0.1)
    flying = run.asking("flying")
    await soon(lambda: gate.arrived == 1)
    run.runtime.post(ProgramRegistered("interrupted"))
    run.runtime.post(ProgramInterrupted("interrupted"))  # at once, so that no lease can run out in between
    await run.client.post("/programs", json={"program_id": "witness"})
    await soon(lambda: "witness" in run.runtime.ended)
    assert set(run.scheduler.programs) == {"flying", "interrupted"}
    gate.open()
    await flying
    await run.client.post("/programs/interrupted/events", json={"type": "resumed"})
    await soon(lambda: not run.scheduler.programs)


@pytest.mark.parametrize("seed", [1, 2, 3])
async def test_fault_05_pauses_and_requests_race(engine_factory, serve, seed):
    """Sixty agents over two small pools, some in parallel, some impatient, some gone in the middle.

    The audit of the trace checks that nothing is forwarded but to where its program is bound.
    """
    dice = random.Random(seed)
    engines = [await engine_factory(capacity_tokens=2000) for _ in range(2)]

    async def reply(engine, request, respond):
        await asyncio.sleep(dice.random() * 0.01)
        await answer(engine, request, respond)

    for engine in engines:
        engine.reply = reply
    run = await serve(*engines, decay_interval_s=0.05, tick_s=0.02, max_wait_s=5.0)
    seen: set[int] = set()

    async def turn(name: str, tokens: int) -> None:
        headers = {"x-stainless-read-timeout": "0.2"} if dice.random() < 0.1 else {}
        body = {**messages(text_of(tokens)), "program_id": name, "stream": dice.random() < 0.5}
        call = asyncio.ensure_future(run.client.post(CHAT, json=body, headers=headers))
        if dice.random() < 0.1:
            await asyncio.sleep(dice.random() * 0.02)
            call.cancel()
        outcome = (await asyncio.gather(call, return_exceptions=True))[0]
        if not isinstance(outcome, asyncio.CancelledError):
            seen.add(outcome.status_code)

    async def agent(name: str) -> None:
        for number in range(4):
            tokens = 100 + 100 * number
            await asyncio.gather(*(turn(name, tokens) for _ in range(dice.choice([1, 1, 1, 3]))))
            if dice.random() < 0.2:
                await run.client.post(f"/programs/{name}/events", json={"type": "idle"})
            run.scheduler.check()
        if dice.random() < 0.8:
            await run.release(name)

    await asyncio.gather(*(agent(f"agent-{number}") for number in range(60)))
    assert seen <= {200, 503, 410}
    assert run.runtime.decisions["Pause"] > 10
    assert all(engine.seen for engine in engines)
