"""More programs than the engine's cache holds: they are paused and restored, all finish, and less is computed twice."""

from __future__ import annotations

import asyncio
import json
from functools import partial

import pytest
from prometheus_client.parser import text_string_to_metric_families
from served import PATIENT_S, served

from thunderagent_core.demo.agents import Target, run_agents
from thunderagent_core.demo.summary import summarize
from thunderagent_core.demo.workload import Workload
from thunderagent_core.engines.kv_events import KvEventSource
from thunderagent_core.engines.kv_messages import BlockStored

pytestmark = [pytest.mark.real_vllm, pytest.mark.timeout(1800)]

LOAD = Workload(
    programs=12,
    turns=4,
    system_tokens=0,
    task_tokens=1_000,
    observation_tokens=340,
    output_tokens=16,
    tool_s=1.0,
    start_spread_s=1.0,
    chars_per_token=5.3,
)
"""Contexts of 1,050 tokens at first and 2,150 at last: 12 of them are one and a half times the pool."""


async def listen(url_client, decisions, listening):
    """Keep what ``GET /events`` tells; its first line says that from now on nothing is missed."""
    async with url_client.stream("GET", "/events", timeout=None) as answer:
        async for line in answer.aiter_lines():
            listening.set()
            if line.startswith("data: "):
                decisions.append(json.loads(line.removeprefix("data: ")))


async def counted(client, *names):
    """Return how often the server says that it took each of these decisions."""
    page = text_string_to_metric_families((await client.get("/metrics")).text)
    (family,) = (family for family in page if family.name == "thunderagent_decisions")
    counts = {sample.labels["decision"]: sample.value for sample in family.samples if sample.name.endswith("_total")}
    return {name: counts.get(name, 0) for name in names}


async def listen_to_kv(source, sessions):
    async for batch in source:
        sessions |= {event.session_id for event in batch.events if isinstance(event, BlockStored)}


async def run_with(real_vllm, policy):
    """Run the agents through a server with this policy; return their result and all that was seen meanwhile."""
    real_vllm.reset_prefix_cache()
    decisions, sessions = [], set()
    async with served(real_vllm.url, policy=policy) as ours, KvEventSource(real_vllm.url, timeout_s=PATIENT_S) as kv:
        listening = asyncio.Event()
        listeners = [asyncio.create_task(listen(ours.client, decisions, listening))]
        listeners.append(asyncio.create_task(listen_to_kv(kv, sessions)))
        async with asyncio.timeout(PATIENT_S):
            await listening.wait()
        target = Target(url=ours.url, model="smollm2", prefix=policy, extra_body={"ignore_eos": True, "temperature": 0})
        result = await run_agents(target, LOAD)
        left = (await ours.client.get("/programs")).json()["programs"]
        counts = await counted(ours.client, "Pause", "Restore")
        await ours.until(partial(tally, decisions, counts), lambda seen: seen == counts)
        await ours.until(partial(sessions_of, sessions, policy), lambda seen: len(seen) == LOAD.programs)
        for listener in listeners:
            listener.cancel()
        await asyncio.gather(*listeners, return_exceptions=True)
    assert [program.error for program in result.programs if program.error] == []
    assert [program.turns for program in result.programs] == [LOAD.turns] * LOAD.programs
    assert left == [], "released at their end"
    return summarize(result), decisions


async def tally(decisions, names):
    return {name: sum(seen["type"] == name for seen in decisions) for name in names}


async def sessions_of(sessions, policy):
    return {session for session in sessions if session and session.startswith(f"{policy}-")}


def came_back(decisions):
    """Return the programs that were paused and restored after that."""
    paused, restored = set(), set()
    for decision in decisions:
        if decision["type"] == "Pause":
            paused.add(decision["program_id"])
        elif decision["type"] == "Restore" and decision["program_id"] in paused:
            restored.add(decision["program_id"])
    return restored


async def test_programs_over_the_size_of_the_pool(real_vllm):
    plain, _ = await run_with(real_vllm, "passthrough")
    paper, decisions = await run_with(real_vllm, "paper")
    assert LOAD.steps == plain.requests == paper.requests == 48
    assert came_back(decisions), "paused for want of memory, and restored"
    assert {d["reason"] for d in decisions if d["type"] == "Pause"} == {"demand exceeds capacity"}
    # An agent looks at its program before it releases it, and may be paused in between.
    assert 0 < paper.pauses <= sum(decision["type"] == "Pause" for decision in decisions)
    assert paper.worst_wait_s > 0 == plain.worst_wait_s
    assert paper.hit_rate > plain.hit_rate
    assert paper.recomputed_tokens < plain.recomputed_tokens
