"""The benchmark must not take a broken proxy for a fast one."""

from __future__ import annotations

import asyncio
import contextlib
import json
from dataclasses import replace

import pytest
from transport_tools import HANG_S

from benchmarks.load import arms, report
from benchmarks.load.engine import DONE, MODEL, Replies, StubEngine
from benchmarks.load.generator import BadAnswerError, Expected, Load, StarvedError, run_load
from benchmarks.load.relay import Relay
from benchmarks.load.session import DIRECT, Result, Sample

REPLIES = Replies(chunks=10, burst=3)
LOAD = Load(connections=4, seconds=0.1, warmup_s=0.01, prompt_bytes=500, stream=False)
UNTIL_IT_FAILS = replace(LOAD, seconds=HANG_S)


def no_probe():
    return 0.0, 0.0


@pytest.fixture
async def engine(no_leaks):
    engine = StubEngine(REPLIES)
    yield await engine.start()
    engine.stop()


async def measured(port, load):
    """Measure, again and for longer where this machine was too busy to give each connection its turn."""
    while True:
        with contextlib.suppress(StarvedError):
            seen = await run_load(port, load, REPLIES, no_probe)
            if len(seen.latencies) >= load.connections:
                return seen
        load = replace(load, seconds=2 * load.seconds)


@pytest.mark.parametrize("stream", [False, True])
async def test_the_bare_relay_passes_what_the_engine_sends(engine, serve, stream):
    relay = Relay(f"http://127.0.0.1:{engine}")
    server = await serve(relay)
    for port in (engine, server.port):
        seen = await measured(port, replace(LOAD, stream=stream))
        assert seen.answers_per_s > 0
        assert (seen.events_per_s > 0) is stream
    await server.stop(0)
    await relay.pool.aclose()


async def test_a_proxy_that_changes_answers_fails(no_leaks, serve):
    async def wrong(request, responder):
        responder.send(200, [], json.dumps({"choices": []}).encode())

    server = await serve(wrong)
    with pytest.raises(BadAnswerError, match="another answer"):
        await run_load(server.port, UNTIL_IT_FAILS, REPLIES, no_probe)


async def test_a_proxy_that_loses_requests_fails(no_leaks, serve):
    async def forgetful(request, responder):
        if request.header(b"x-program-id") == b"bench-0":
            await asyncio.Event().wait()
        responder.send(200, [], REPLIES.whole())

    server = await serve(forgetful)
    with pytest.raises(StarvedError, match="got nothing"):
        await run_load(server.port, LOAD, REPLIES, no_probe)


async def test_a_proxy_that_hangs_up_fails(no_leaks, serve):
    async def rude(request, responder):
        responder.abort()

    server = await serve(rude)
    with pytest.raises((BadAnswerError, ConnectionError)) as caught:
        await run_load(server.port, UNTIL_IT_FAILS, REPLIES, no_probe)
    assert not isinstance(caught.value, StarvedError), "it is seen at once"


@pytest.mark.parametrize(
    "body",
    [REPLIES.event() * 9 + DONE, REPLIES.event() * 11 + DONE, REPLIES.event() * 11, b""],
    ids=["one lost", "one too many", "no end", "nothing"],
)
def test_a_stream_must_have_all_its_chunks(body):
    expected = Expected(REPLIES, stream=True)
    expected.check(200, REPLIES.event() * 10 + DONE)
    with pytest.raises(BadAnswerError):
        expected.check(200, body)
    with pytest.raises(BadAnswerError, match="status 500"):
        expected.check(500, REPLIES.event() * 10 + DONE)


def sample(arm, number, requests, chunks):
    return Sample(arm, number, requests, chunks, 100.0, 200.0, 50.0, 2.0, 0.0)


def test_ratios_are_taken_within_rounds_and_goals_checked():
    result = Result({"rounds": 2, "seconds": 1.0, "connections": 32, "prompt_bytes": 4096, "chunks": 1, "burst": 1})
    for number, machine in enumerate((1.0, 0.5, 1.0)):  # a slow minute halves all alike
        for arm, speed in ((DIRECT, 8.0), ("smg", 1.0), ("thunderagent", 2.0), ("slow", 0.5)):
            result.samples.append(sample(arm, number, 5_000 * speed * machine, 130_000 * speed * machine))
    assert [(row.arm, row.requests_ratio) for row in report.rows(result)] == [
        (DIRECT, 8.0),
        ("thunderagent", 2.0),
        ("smg", 1.0),
        ("slow", 0.5),
    ]
    assert report.unmet(result, "thunderagent") == []
    assert len(report.unmet(result, "slow")) == 4
    assert report.unmet(result, "missing") == ["missing was not measured"]
    result.failures["broken"] = ["status 500"]
    assert report.table(result).row_count == 5


def test_results_are_stored_and_drawn(tmp_path):
    result = Result({"rounds": 1}, [sample("bare", 0, 1.0, 2.0)], memory_bytes={"bare": 1})
    report.write_json(result, tmp_path / "deep" / "proxy.json")
    assert json.loads((tmp_path / "deep" / "proxy.json").read_text())["samples"][0]["arm"] == "bare"
    report.plot(result, tmp_path / "proxy.png")
    assert (tmp_path / "proxy.png").stat().st_size > 1000


def test_a_custom_arm_needs_both_places():
    command = arms.custom("mine=proxy {url} {port}").command("http://x", 1)
    assert command == ["sh", "-c", "exec proxy http://x 1"]
    with pytest.raises(ValueError, match="NAME=COMMAND"):
        arms.custom("mine=proxy {url}")


def test_the_stub_speaks_of_its_model():
    assert json.loads(REPLIES.whole())["model"] == MODEL
