"""Engines that hang: connections stay open, nothing comes. Requests go elsewhere where they can, and end."""

from __future__ import annotations

import asyncio
import json

import pytest
from scripted_engine import EVENTS, Gate, answer, delta
from server_tools import CHAT, RARELY, check_error, messages, soon

HANGS = {"poll_timeout_s": 0.3, "lost_after_polls": 2}
"""An engine that does not answer its pollers counts as lost within a second."""


async def head_only(engine, request, respond):
    """The status line, and then nothing."""
    gate = engine.gate
    respond.start(200, EVENTS)
    await gate.opened.wait()
    respond.finish()


def hang(engine):
    """Answer neither requests nor pollers."""
    engine.answers_polls.clear()
    engine.gate = engine.reply = Gate()
    return engine.gate


def recover(engine):
    engine.answers_polls.set()
    engine.gate.open()


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("program", ["p", None])
async def test_a_request_on_a_hung_engine_goes_elsewhere_once_that_counts_as_lost(two, serve, stream, program):
    first, second = two
    run = await serve(first, second, **HANGS)
    hang(first)
    response = await run.chat(program, stream=stream)
    assert response.status_code == 200
    assert b"all" in response.content
    assert first.bodies() == second.bodies()
    await soon(lambda: first.broken_off == 1)
    await run.idle()
    assert run.runtime.outcomes == {"completed": 1}
    if program is not None:
        assert (await run.program(program))["backend"] == second.id


async def test_the_head_of_a_stream_is_not_its_first_byte(two, serve):
    first, second = two
    run = await serve(first, second, **HANGS)
    hang(first)
    first.reply = head_only
    assert b"all" in (await run.chat("p", stream=True)).content
    await soon(lambda: first.broken_off == 1)
    assert len(second.seen) == 1


async def test_a_passed_through_get_on_a_hung_engine_goes_elsewhere(two, serve):
    first, second = two
    run = await serve(first, second, **HANGS)
    for engine in two:
        hang(engine)
    asked = asyncio.create_task(run.client.get("/v1/files/x"))
    await soon(lambda: first.seen or second.seen)
    other = second if first.seen else first
    other.reply = answer
    recover(other)
    assert (await asked).status_code == 200


async def test_without_another_engine_a_request_waits_for_the_hung_one(engine, serve):
    """It may only be slow."""
    run = await serve(engine, **HANGS)
    gate = hang(engine)
    call = run.asking("p")
    await soon(lambda: gate.arrived == 1)
    await run.healthy(0)
    assert not call.done()
    recover(engine)
    assert (await call).status_code == 200
    assert len(engine.seen) == 1


async def test_a_request_leaves_a_hung_engine_when_another_one_comes_up_later(two, serve):
    first, second = two
    run = await serve(first, second, **HANGS)
    second.answers_polls.clear()
    await run.healthy(1)
    gate = hang(first)
    call = run.asking("p")
    await soon(lambda: gate.arrived == 1)
    await run.healthy(0)
    assert not call.done()
    second.answers_polls.set()
    assert (await call).status_code == 200
    assert len(second.seen) == 1


async def test_what_may_have_had_an_effect_stays_on_a_hung_engine(two, serve):
    first, second = two
    run = await serve(first, second, **HANGS)
    gate = hang(first)
    body = {"model": "m", "input": "x", "store": True, "program_id": "p"}
    call = asyncio.create_task(run.client.post("/v1/responses", json=body))
    await soon(lambda: gate.arrived == 1)
    await run.healthy(1)
    recover(first)
    assert (await call).status_code == 200
    assert (len(first.seen), len(second.seen)) == (1, 0)


async def test_a_stream_under_way_stays_on_a_hung_engine(two, serve, raw):
    first, second = two
    run = await serve(first, second, **HANGS)
    first.reply = gate = Gate(first=delta("begun"), last=delta("done"))
    client = await raw(run.port)
    client.post(CHAT, messages(program_id="p", stream=True), "Connection: close")
    await client.until(b"begun")
    first.answers_polls.clear()
    await run.healthy(1)
    first.answers_polls.set()
    gate.open()
    assert b"done" in await client.rest()
    assert second.seen == []


async def test_a_program_does_not_wait_behind_its_stream_on_a_hung_engine(two, serve, raw):
    """docs/configuration.md: with their next request programs move to another engine."""
    first, second = two
    run = await serve(first, second, **HANGS)
    first.reply = gate = Gate(first=delta("begun"))
    client = await raw(run.port)
    client.post(CHAT, messages(program_id="p", stream=True))
    await client.until(b"begun")
    first.answers_polls.clear()
    await run.healthy(1)
    assert (await run.chat("p")).status_code == 200
    assert len(second.seen) == 1
    assert first.open == 1
    gate.open()
    await client.until(b"[DONE]")


async def test_a_client_that_leaves_a_hung_engine_is_gone(two, serve, raw):
    first, second = two
    run = await serve(first, second, **RARELY)
    first.gate = first.reply = Gate()
    client = await raw(run.port)
    client.post(CHAT, messages(program_id="p"))
    await soon(lambda: first.open == 1)
    await client.close()
    await soon(lambda: first.broken_off == 1)
    await run.idle()
    assert run.runtime.outcomes == {"disconnected": 1}
    assert second.seen == []
    assert not run.server.fleet.engines[first.id].attempts


SHORT = {"response_timeout_s": 0.3, **RARELY}


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("program", ["p", None])
async def test_silence_before_an_answer_ends_the_request(two, serve, stream, program):
    """With 504, and not elsewhere: it has been worked on for as long as may be."""
    first, second = two
    run = await serve(first, second, **SHORT)
    first.reply = second.reply = Gate()
    response = await run.chat(program, stream=stream)
    check_error(response, 504, None, code="upstream_timeout")
    assert response.headers["x-should-retry"] == "false"
    await run.idle()
    assert run.runtime.outcomes == {"timed_out": 1}
    await soon(lambda: first.broken_off + second.broken_off == 1)
    if program is not None:
        view = await run.program(program)
        assert (view["phase"], view["steps"], view["context_tokens"]) == ("acting", 0, 0)


@pytest.mark.parametrize(
    ("path", "error"),
    [
        (CHAT, {"error": {"type": "server_error", "param": None, "code": "upstream_timeout"}}),
        ("/v1/responses", {"type": "error", "code": "upstream_timeout", "param": None}),
        ("/v1/messages", {"type": "error", "error": {"type": "api_error"}}),
    ],
)
async def test_silence_within_a_stream_ends_it_with_an_error_event(engine, serve, path, error):
    run = await serve(engine, **SHORT)
    engine.reply = Gate(first=delta("begun"))
    body = {**messages(), "input": "x", "stream": True, "program_id": "p"}
    response = await run.client.post(path, json=body)
    assert response.content.startswith(delta("begun"))
    last = json.loads(response.text.rstrip().rpartition("data: ")[2])
    inner = last.get("error", last)
    assert "nothing for" in inner.pop("message")
    assert last == error
    await run.idle()
    assert run.runtime.outcomes == {"timed_out": 1}
    view = await run.program("p")
    assert (view["phase"], view["steps"], view["context_tokens"]) == ("acting", 0, 0)


async def test_silence_within_a_whole_answer_ends_the_request(engine, serve):
    async def half(_engine, _request, respond):
        respond.start(200, [(b"content-type", b"application/json")], length=1000)
        respond.write(b'{"choices": [')
        await _engine.gate.opened.wait()

    run = await serve(engine, **SHORT)
    engine.gate, engine.reply = Gate(), half
    check_error(await run.chat("p"), 504, None, code="upstream_timeout")


async def test_draining_a_hung_engine_ends(engine, serve):
    run = await serve(engine, **SHORT)
    engine.reply = gate = Gate()
    call = run.asking("p")
    await soon(lambda: gate.arrived == 1)
    assert (await run.client.delete(f"/backends/{engine.id}")).status_code == 202
    assert (await call).status_code == 504
    await soon(lambda: engine.id not in run.server.fleet.engines)
