"""Engines that fail: another one answers where that does no harm, else the client is told how it is."""

from __future__ import annotations

import asyncio

import pytest
from scripted_engine import Gate, answer, die, die_after, die_in_whole, recorded, whole
from server_tools import RARELY, messages, soon, text_of


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("program", ["p", None])
async def test_a_refused_connection_is_answered_by_another_engine(two, serve, stream, program):
    first, second = two
    run = await serve(first, second, **RARELY)
    await first.stop()
    response = await run.chat(program, stream=stream)
    assert response.status_code == 200
    assert len(second.seen) == 1
    lost = next(b for b in (await run.get("/backends"))["backends"] if b["id"] == first.id)
    assert lost["healthy"] is False
    assert "connect" in lost["reason"]
    if program is not None:
        assert (await run.program(program))["backend"] == second.id


async def test_one_engine_of_many_is_enough(engine_factory, serve):
    engines = [await engine_factory(capacity_tokens=1000 * size) for size in (6, 5, 4, 3, 2)]
    run = await serve(*engines, **RARELY)
    for engine in engines[:-1]:
        await engine.stop()
    assert (await run.chat("p")).status_code == 200
    assert len(engines[-1].seen) == 1
    assert sum(backend.healthy for backend in run.scheduler.backends.values()) == 1


async def test_connections_that_are_refused_again_and_again_have_an_end(engine_factory, serve):
    """Its pollers reach the engine, requests do not."""
    engine = await engine_factory()
    run = await serve(engine)
    pool = run.server.fleet.engines[engine.id].pool
    await pool.aclose()
    response = await run.chat("p")
    assert (response.status_code, response.json()["error"]["code"]) == (503, "upstream_unavailable")


@pytest.mark.parametrize(
    ("reply", "stream"),
    [
        (die, False),
        (die, True),
        (die_after(b""), True),
        (die_in_whole(b'{"choices": ['), False),
    ],
)
async def test_dying_before_the_first_byte_is_answered_by_another_engine(two, serve, reply, stream):
    first, second = two
    first.reply = reply
    run = await serve(first, second, **RARELY)
    response = await run.chat("p", stream=stream)
    assert response.status_code == 200
    assert b"all" in response.content
    assert (len(first.seen), len(second.seen)) == (1, 1)
    assert first.bodies() == second.bodies()
    await run.idle()
    program = await run.program("p")
    assert (program["steps"], program["phase"]) == (1, "acting")


@pytest.mark.parametrize("status", [500, 502, 503, 504])
@pytest.mark.parametrize("stream", [False, True])
async def test_an_error_of_the_engine_is_answered_by_another_engine(two, serve, status, stream):
    first, second = two
    first.reply = whole(status, b'{"error": "engine is dead"}')
    run = await serve(first, second)
    assert (await run.chat("p", stream=stream)).status_code == 200
    assert (len(first.seen), len(second.seen)) == (1, 1)


@pytest.mark.parametrize("status", [500, 503])
async def test_an_error_without_an_alternative_is_passed_on_unchanged(two, serve, status):
    first, second = two
    body = b'{"error": "of its own kind"}'
    first.reply = second.reply = whole(status, body, [(b"content-type", b"application/json"), (b"retry-after", b"9")])
    alone = await serve(first)
    response = await alone.chat("p", stream=True)
    assert (response.status_code, response.content, response.headers["retry-after"]) == (status, body, "9")
    assert len(first.seen) == 1
    both = await serve(first, second)
    response = await both.chat("p")
    assert (response.status_code, response.content) == (status, body)
    await both.idle()
    program = await both.program("p")
    assert (program["phase"], program["steps"], program["context_tokens"]) == ("acting", 0, 0)


@pytest.mark.parametrize("status", [400, 404, 422, 429, 501])
async def test_other_errors_are_not_repeated(two, serve, status):
    first, second = two
    first.reply = second.reply = whole(status, b'{"error": "as it is"}')
    run = await serve(first, second)
    response = await run.chat("p")
    assert (response.status_code, response.content) == (status, b'{"error": "as it is"}')
    assert len(first.seen) + len(second.seen) == 1


async def test_an_engine_for_another_model_is_no_alternative(engine_factory, serve):
    first = await engine_factory(models=("m",))
    second = await engine_factory(models=("other",))
    first.reply = whole(500, b"{}")
    run = await serve(first, second)
    assert (await run.chat("p")).status_code == 500
    assert second.seen == []


async def test_all_engines_down(engine_factory, serve):
    """New requests are sent away; those that waited keep their place and go on when an engine is back."""
    engine = await engine_factory(capacity_tokens=1000)
    engine.reply = gate = Gate()
    run = await serve(engine, decay_base=1.0)

    async def agent(name: str) -> int:
        status = (await run.chat(name, text_of(600))).status_code
        await run.release(name)
        return status

    first = asyncio.create_task(agent("a"))
    await soon(lambda: gate.arrived == 1)
    queued = [asyncio.create_task(agent(name)) for name in ("b", "c")]
    await soon(lambda: run.held() == 2)
    await engine.stop()
    await run.healthy(0)
    refused = await run.chat("d")
    assert (refused.status_code, refused.json()["error"]["code"]) == (503, "no_healthy_backend")
    assert 1 <= int(refused.headers["retry-after"]) <= 30
    await soon(lambda: run.held() == 3)  # the first one got no byte, so it waits as well
    engine.reply = answer
    await engine.start()
    assert await asyncio.gather(first, *queued) == [200, 200, 200]
    assert set(run.runtime.ended) == {"a", "b", "c"}


async def test_no_engine_ever_comes_back(engine_factory, serve):
    engine = await engine_factory()
    engine.reply = Gate()
    run = await serve(engine, max_wait_s=0.5)
    call = run.asking("a")
    await soon(lambda: engine.open == 1)
    await engine.stop()
    response = await call
    assert (response.status_code, response.json()["error"]["code"]) == (503, "no_healthy_backend")
    assert "retry-after" in response.headers


@pytest.mark.parametrize("field", ["store", "background"])
async def test_what_may_have_had_an_effect_is_not_repeated(two, serve, field):
    first, second = two
    body = {"model": "m", "input": "x", field: True, "program_id": "p"}
    run = await serve(first, second, **RARELY)
    first.reply = die
    broken = await run.client.post("/v1/responses", json=body)
    assert (broken.status_code, broken.json()["error"]["code"]) == (502, "upstream_broke_off")
    assert broken.headers["x-should-retry"] == "false"
    first.reply = whole(503, b"{}")
    assert (await run.client.post("/v1/responses", json=body)).status_code == 503
    assert (len(first.seen), len(second.seen)) == (2, 0)
    await first.stop()
    assert (await run.client.post("/v1/responses", json=body)).status_code == 200, "a refused one had no effect"
    assert len(second.seen) == 1


@pytest.mark.parametrize(("method", "repeated"), [("GET", True), ("POST", False), ("DELETE", False)])
async def test_which_passed_through_requests_are_repeated(two, serve, method, repeated):
    first, second = two
    first.reply = second.reply = die
    run = await serve(first, second)
    response = await run.client.request(method, "/v1/files/x")
    assert response.status_code == (503 if repeated else 502)
    assert (len(first.seen) + len(second.seen) > 1) is repeated
    first.reply = second.reply = whole(503, b'{"of": "the engine"}')
    first.seen.clear()
    second.seen.clear()
    assert (await run.client.request(method, "/v1/files/x")).content == b'{"of": "the engine"}'
    assert (len(first.seen) + len(second.seen) > 1) is repeated


async def test_a_passed_through_answer_that_breaks_off_looks_broken(engine, serve, raw):
    engine.reply = die_after(b"part of it", [(b"content-type", b"text/plain")])
    run = await serve(engine)
    client = await raw(run.port)
    client.send(b"GET /v1/files/x HTTP/1.1\r\nhost: x\r\n\r\n")
    answer_bytes = await client.rest()
    assert b"part of it" in answer_bytes
    assert not answer_bytes.endswith(b"0\r\n\r\n"), "the last chunk would say that this was all"


async def test_an_engine_that_always_dies_is_asked_a_few_times_only(engine, serve):
    engine.reply = die
    run = await serve(engine)
    response = await run.chat("p")
    assert (response.status_code, response.json()["error"]["code"]) == (503, "upstream_unavailable")
    assert "retry-after" in response.headers
    assert len(engine.seen) == 3


async def test_kept_connections_that_the_engine_closed_are_replaced(engine, serve):
    run = await serve(engine, **RARELY)
    assert (await run.chat("p")).status_code == 200
    await engine.stop()
    await engine.start()
    assert (await run.chat("p")).status_code == 200
    assert len(engine.seen) == 2


async def test_what_is_no_http_counts_as_broken_off(engine_factory, serve):
    good = await engine_factory(capacity_tokens=100)
    bad = await engine_factory(capacity_tokens=16_000)
    run = await serve(bad, good, **RARELY)
    await bad.stop()

    async def nonsense(reader, writer):
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"SSH-2.0-OpenSSH_9.6\r\n")
        writer.close()

    server = await asyncio.start_server(nonsense, "127.0.0.1", bad.port)
    try:
        assert (await run.chat("p")).status_code == 200
        assert len(good.seen) == 1
    finally:
        server.close()
        await server.wait_closed()


async def test_recorded_errors_keep_their_form(engine, serve):
    engine.reply = whole(404, recorded("error_unknown_model_messages.json"))
    run = await serve(engine)
    response = await run.client.post("/v1/messages", json=messages(max_tokens=5))
    assert response.content == recorded("error_unknown_model_messages.json")
