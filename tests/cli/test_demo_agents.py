"""Agents at work, against a small server that remembers what it was asked."""

from __future__ import annotations

import asyncio
import json
from contextlib import asynccontextmanager
from itertools import pairwise

import pytest

from thunderagent_core.demo.agents import Target, run_agents
from thunderagent_core.demo.workload import Workload, plan
from thunderagent_core.transport.server import HttpServer

SMALL = Workload(programs=2, turns=3, tool_s=0.0, start_spread_s=0.0)
JSON = [(b"content-type", b"application/json")]


class Engine:
    """Streams two words to each request; ``refuse`` and ``fail`` change that for some requests."""

    def __init__(self):
        self.requests = []
        self.released = []
        self.headers = []
        self.refusals = 0
        self.before_answering = None
        self.ending = b"data: [DONE]\n\n"
        self.fail = lambda body: None

    async def handle(self, request, responder):
        body = json.loads(request.body) if request.body else None
        if request.path == "/v1/chat/completions":
            self.requests.append(body)
            self.headers.append(dict(request.headers))
            await self._chat(body, responder)
        elif request.path == "/programs/release":
            self.released.append(body["program_id"])
            responder.send(200, JSON, b"{}")
        else:
            responder.send(200, JSON, json.dumps({"longest_wait_s": 1.5, "waited_s": 2.0, "pauses": 1}).encode())

    async def _chat(self, body, responder):
        if self.refusals:
            self.refusals -= 1
            responder.send(503, [(b"retry-after", b"0")], b"")
        elif (status := self.fail(body)) is not None:
            responder.send(status, [], b"no")
        else:
            await self._stream(body, responder)

    async def _stream(self, body, responder):
        if self.before_answering is not None:
            await self.before_answering(body)
        responder.start(200, [(b"content-type", b"text/event-stream")])
        for word in ("Hello ", "world"):
            chunk = {"choices": [{"delta": {"content": word}}]}
            responder.write(b"data: " + json.dumps(chunk).encode() + b"\r\n\r\n")
        usage = {"prompt_tokens": 50, "completion_tokens": 2, "prompt_tokens_details": {"cached_tokens": 40}}
        responder.write(b"data: " + json.dumps({"choices": [], "usage": usage}).encode() + b"\n\n" + self.ending)
        responder.finish()


@asynccontextmanager
async def serving(engine):
    server = HttpServer(engine.handle)
    await server.start("127.0.0.1", 0)
    try:
        yield Target(url=f"http://127.0.0.1:{server.port}", model="m")
    finally:
        await server.stop(0)


@pytest.fixture
def engine():
    return Engine()


async def run(engine, workload=SMALL, listener=None, **target):
    async with serving(engine) as default:
        values = {"url": default.url, "model": "m", **target}
        return await run_agents(Target(**values), workload, listener)


async def test_each_turn_repeats_the_conversation_and_adds_to_it(engine):
    await run(engine)
    mine = [body for body in engine.requests if body["program_id"] == "agent-0"]
    turns = plan(SMALL)[0].turns
    assert [len(body["messages"]) for body in mine] == [2, 4, 6]
    for earlier, later in pairwise(mine):
        assert later["messages"][: len(earlier["messages"])] == earlier["messages"]
        assert later["messages"][len(earlier["messages"])] == {"role": "assistant", "content": "Hello world"}
    assert [body["messages"][-1]["content"] for body in mine] == [turn.text for turn in turns]
    assert [body["max_tokens"] for body in mine] == [turn.output_tokens for turn in turns]


async def test_what_is_measured(engine):
    told = []
    result = await run(engine, listener=told.append)
    assert sorted(engine.released) == ["agent-0", "agent-1"]
    assert told == result.requests
    assert len(result.requests) == SMALL.steps
    first = result.requests[0]
    assert (first.prompt_tokens, first.cached_tokens, first.completion_tokens) == (50, 40, 2)
    assert 0 < first.first_token_s <= first.latency_s <= result.duration_s
    assert [(p.turns, p.longest_wait_s, p.waited_s, p.pauses, p.error) for p in result.programs] == [
        (3, 1.5, 2.0, 1, None)
    ] * 2


async def test_sub_calls_are_open_at_once_and_reported_in_the_next_turn(engine):
    three_open = asyncio.Barrier(3)

    async def meet(body):
        if len(body["messages"]) == 4:  # those of the second turn
            await three_open.wait()

    engine.before_answering = meet
    load = Workload(programs=1, turns=3, tool_s=0, start_spread_s=0, parallel_calls=3, parallel_every=2)
    result = await run(engine, load)
    assert sorted((r.turn, r.call) for r in result.requests) == [(0, 0), (1, 0), (1, 1), (1, 2), (2, 0)]
    assert result.programs[0].turns == 3
    last = engine.requests[-1]["messages"][-1]["content"]
    assert last.endswith("Report 1: Hello world Report 2: Hello world")
    assert "Sub-task 2" in "".join(body["messages"][-1]["content"] for body in engine.requests)


async def test_a_refusal_for_now_is_waited_out(engine):
    engine.refusals = 3
    result = await run(engine)
    assert sum(record.refusals for record in result.requests) == 3
    assert all(program.error is None for program in result.programs)


async def test_refusals_end(engine):
    engine.refusals = 1000
    result = await run(engine, max_refusals=2)
    assert {program.error for program in result.programs} == {"refused 3 times"}


async def test_a_failure_ends_its_agent_alone(engine):
    engine.fail = lambda body: 500 if body["program_id"] == "agent-1" else None
    result = await run(engine)
    assert sorted((p.program, p.turns, p.error) for p in result.programs) == [(0, 3, None), (1, 0, "HTTP 500: no")]
    assert sorted(engine.released) == ["agent-0", "agent-1"]


async def test_half_an_answer_is_a_failure(engine):
    engine.ending = b""
    result = await run(engine)
    assert {p.error for p in result.programs} == {"the stream ended before its answer was complete"}
    engine.ending = b'data: {"error": {"message": "died"}}\n\n'
    result = await run(engine)
    assert {p.error for p in result.programs} == {"an error in the stream: {'message': 'died'}"}


async def test_nobody_there_is_a_failure_not_an_exception(closed_port):
    result = await run_agents(Target(url=f"http://127.0.0.1:{closed_port}", model="m"), SMALL)
    assert [program.turns for program in result.programs] == [0, 0]
    assert all("cannot connect" in program.error for program in result.programs)


async def test_other_servers_are_told_the_id_in_their_way(engine):
    extra = {"ignore_eos": True}
    await run(
        engine, id_field=None, id_header="X-Session-ID", views=False, release=False, extra_body=extra, api_key="k"
    )
    assert engine.released == []
    assert "program_id" not in engine.requests[0]
    assert engine.requests[0]["ignore_eos"] is True
    assert engine.headers[0][b"x-session-id"] in {b"agent-0", b"agent-1"}
    assert engine.headers[0][b"authorization"] == b"Bearer k"


async def test_a_salt_begins_every_prompt(engine):
    await run(engine, salt="Run 1. ")
    assert all(body["messages"][0]["content"].startswith("Run 1. ") for body in engine.requests)


async def test_programs_are_released_when_the_run_is_cancelled(engine):
    both_open = asyncio.Barrier(3)

    async def meet_and_stay(body):
        await both_open.wait()
        await asyncio.Event().wait()

    engine.before_answering = meet_and_stay
    task = asyncio.create_task(run(engine))
    await both_open.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert sorted(engine.released) == ["agent-0", "agent-1"]


async def test_the_workloads_clock_may_run_faster(engine):
    load = Workload(programs=1, turns=2, tool_s=500.0, tool_law="constant", start_spread_s=0)
    result = await run(engine, load, speed=10_000.0)
    assert result.duration_s >= 500
    assert result.programs[0].completion_s >= 500
