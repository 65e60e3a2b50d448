"""The engine client and the KV events against a real vLLM."""

from __future__ import annotations

import asyncio
import os
from contextlib import aclosing

import pytest

from thunderagent_core.engines.base import EngineError
from thunderagent_core.engines.discovery import detect
from thunderagent_core.engines.kv_events import KvEventSource
from thunderagent_core.engines.kv_messages import AllBlocksCleared, BlockStored, Resync
from thunderagent_core.engines.vllm import VllmClient

pytestmark = [pytest.mark.real_vllm, pytest.mark.timeout(900)]

BLOCK = 32
PATIENT_S = 60.0
"""Time-out of the clients here: the machine that runs the tests may be slow, and that is not what is tested."""


@pytest.fixture
async def sampler(real_vllm):
    client = VllmClient(real_vllm.url, timeout_s=PATIENT_S)
    yield client
    await client.aclose()


async def sample_until(sampler, condition):
    """Return the first sample that satisfies the condition: metrics follow the answers a little later."""
    while not condition(sample := await sampler.sample()):
        await asyncio.sleep(0.05)
    return sample


async def complete(client, text, session=None):
    """Ask for one token and return what the request used."""
    answer = await client.post(
        "/v1/completions",
        json={"model": "smollm2", "prompt": text, "max_tokens": 1, "temperature": 0},
        headers={"X-Session-ID": session} if session else {},
    )
    return answer.raise_for_status().json()["usage"]


async def stored_by(source, sessions):
    """Read batches until every one of the sessions has stored blocks; return the blocks by session."""
    blocks = dict.fromkeys(sessions, 0)
    while not all(blocks.values()):
        for event in (await anext(source)).events:
            if isinstance(event, BlockStored) and event.session_id in blocks:
                blocks[event.session_id] += len(event.block_hashes)
    return blocks


async def test_it_is_vllm(real_vllm):
    client = await detect(real_vllm.url, timeout_s=PATIENT_S)
    assert client.kind == "vllm"
    await client.aclose()


async def test_what_a_sample_tells(sampler):
    seen = await sampler.sample()
    assert (seen.capacity_tokens, seen.block_tokens, seen.max_model_len) == (16_384, BLOCK, 8_192)
    assert (seen.models, seen.ranks) == (("smollm2",), 1)


async def test_cached_tokens(sampler, real_client):
    """The second time a prompt is sent, its whole blocks are found in the cache, in usage and in the counters."""
    before = await sampler.sample()
    text = "The fox and the hare went to the river to drink. " * 10
    first, second = await complete(real_client, text), await complete(real_client, text)
    tokens = first["prompt_tokens"]
    assert first["prompt_tokens_details"]["cached_tokens"] == 0
    cached = second["prompt_tokens_details"]["cached_tokens"]
    assert cached == (tokens - 1) // BLOCK * BLOCK > 0
    after = await sample_until(sampler, lambda seen: seen.prompt_tokens >= before.prompt_tokens + 2 * tokens)
    assert after.prompt_tokens - before.prompt_tokens == 2 * tokens
    assert after.cached_tokens - before.cached_tokens == cached


async def test_a_client_that_goes_away_frees_the_engine(sampler, real_client):
    body = {
        "model": "smollm2",
        "messages": [{"role": "user", "content": "Tell a very long story."}],
        "max_tokens": 8_000,
        "ignore_eos": True,
        "stream": True,
    }
    async with real_client.stream("POST", "/v1/chat/completions", json=body) as answer:
        async with aclosing(answer.aiter_lines()) as lines:
            await anext(lines)
        running = await sample_until(sampler, lambda seen: seen.running == 1)
        assert running.kv_usage > 0
    idle = await sample_until(sampler, lambda seen: seen.running == 0)
    assert (idle.waiting, idle.kv_usage) == (0, 0.0)


async def test_events_carry_the_session_on_every_route(real_vllm, real_client):
    message = [{"role": "user", "content": ""}]
    bodies = {
        "/v1/chat/completions": {"messages": message, "max_tokens": 1},
        "/v1/completions": {"prompt": "", "max_tokens": 1},
        "/v1/responses": {"input": "", "max_output_tokens": 1},
        "/v1/messages": {"messages": message, "max_tokens": 1},
    }
    async with KvEventSource(real_vllm.url, timeout_s=PATIENT_S) as source:
        assert isinstance((await anext(source)).events[0], Resync)
        for number, (route, body) in enumerate(bodies.items()):
            text = f"Question {number}: what did the fox say? " * 8
            filled = {key: text if value == "" else value for key, value in body.items()}
            if "messages" in body:
                filled["messages"] = [{"role": "user", "content": text}]
            answer = await real_client.post(route, json={"model": "smollm2", **filled}, headers={"X-Session-ID": route})
            answer.raise_for_status()
        assert min((await stored_by(source, bodies)).values()) > 0


async def test_a_late_subscriber_learns_what_is_cached(real_vllm, real_client):
    tokens = await complete(real_client, "An early question, asked before anybody listened. " * 12, "early")
    async with KvEventSource(real_vllm.url, timeout_s=PATIENT_S) as source:
        blocks = await stored_by(source, ["early"])
        assert blocks["early"] == tokens["prompt_tokens"] // BLOCK
        real_vllm.reset_prefix_cache()
        await complete(real_client, "A question after the cache was emptied. " * 12, "late")
        cleared = False
        while not cleared:
            cleared = any(isinstance(event, AllBlocksCleared) for event in (await anext(source)).events)


async def test_killed_and_started_again(real_vllm, real_client, sampler):
    await complete(real_client, "A question of the first life. " * 12, "first life")
    async with KvEventSource(real_vllm.url, timeout_s=PATIENT_S) as source:
        await stored_by(source, ["first life"])
        before = await sampler.sample()
        group = real_vllm.pid
        real_vllm.kill()
        try:
            with pytest.raises(ProcessLookupError):
                os.killpg(group, 0)
            with pytest.raises(EngineError, match="unreachable: connection refused") as caught:
                await sampler.sample()
            assert caught.value.refused
        finally:
            await asyncio.to_thread(real_vllm.start)
        after = await sampler.sample()
        assert before.prompt_tokens > after.prompt_tokens == 0
        assert after.capacity_tokens == before.capacity_tokens
        await complete(real_client, "A question of the second life. " * 12, "second life")
        while not isinstance((await anext(source)).events[0], Resync):
            pass
        await stored_by(source, ["second life"])
