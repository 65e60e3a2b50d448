"""A client, our server and a real vLLM: what comes through, what is counted, and what happens when one of them goes."""

from __future__ import annotations

import asyncio
import json
from contextlib import aclosing

import pytest
from served import PATIENT_S, events_of, served

from thunderagent_core.engines.kv_events import KvEventSource
from thunderagent_core.engines.kv_messages import BlockStored
from thunderagent_core.engines.vllm import VllmClient

pytestmark = [pytest.mark.real_vllm, pytest.mark.timeout(900)]

BLOCK = 32
CHAT = "/v1/chat/completions"
LONG = "The fox and the hare went down to the river to drink, and the owl watched them. " * 12
WORDS = 8
"""Tokens of an answer, on the routes on which the model can be kept from ending sooner."""

ROUTES = {
    CHAT: {"messages": [{"role": "user", "content": LONG}], "max_tokens": WORDS, "ignore_eos": True},
    "/v1/completions": {"prompt": LONG, "max_tokens": WORDS, "ignore_eos": True},
    "/v1/responses": {"input": LONG, "max_output_tokens": WORDS, "ignore_eos": True},
    "/v1/messages": {"messages": [{"role": "user", "content": LONG}], "max_tokens": WORDS},
}

TOOL = {
    "type": "function",
    "function": {
        "name": "look_up",
        "description": "Looks a country up.",
        "parameters": {"type": "object", "properties": {"country": {"type": "string"}}, "required": ["country"]},
    },
}


@pytest.fixture
async def ours(real_vllm):
    async with served(real_vllm.url) as running:
        yield running


@pytest.fixture
async def counters(real_vllm):
    """The engine's own counters, asked directly."""
    client = VllmClient(real_vllm.url, timeout_s=PATIENT_S)
    yield client
    await client.aclose()


def body(path=CHAT, **fields):
    return {"model": "smollm2", "temperature": 0, **ROUTES[path], **fields}


def text_of(path, content):
    """Return the text of a whole answer in the dialect of its route."""
    match path:
        case "/v1/chat/completions":
            return content["choices"][0]["message"]["content"]
        case "/v1/completions":
            return content["choices"][0]["text"]
        case "/v1/responses":
            return content["output"][-1]["content"][0]["text"]
        case _:
            return content["content"][0]["text"]


def streamed_text_of(path, events):
    match path:
        case "/v1/chat/completions":
            return "".join(event["choices"][0]["delta"].get("content") or "" for event in events)
        case "/v1/completions":
            return "".join(event["choices"][0]["text"] for event in events)
        case "/v1/responses":
            return "".join(e["delta"] for e in events if e["type"] == "response.output_text.delta")
        case _:
            return "".join(e["delta"].get("text", "") for e in events if e["type"] == "content_block_delta")


def tokens_of(path, whole, events):
    """Return how many tokens the whole and the streamed answer have, as the engine says."""
    if path != "/v1/messages":
        return WORDS, WORDS
    (end,) = (event for event in events if event["type"] == "message_delta")
    return whole["usage"]["output_tokens"], end["usage"]["output_tokens"]


@pytest.mark.parametrize("path", ROUTES)
async def test_two_turns_are_counted_as_the_engine_counts_them(ours, real_client, counters, path):
    """The first turn is not streamed, the second is; both repeat one prompt, so the second finds it in the cache."""
    before = await counters.sample()
    program = f"turns{path}".replace("/", "-")
    whole = await ours.client.post(path, json=body(path, program_id=program))
    assert whole.status_code == 200, whole.text
    first = await ours.program(program)
    tokens = first["prompt_tokens"]
    assert (first["steps"], first["cached_tokens"]) == (1, 0)

    stream = await ours.client.post(path, json=body(path, program_id=program, stream=True))
    events = events_of(stream.text)
    assert stream.headers["content-type"].startswith("text/event-stream")
    second = await ours.program(program)
    cached = (tokens - 1) // BLOCK * BLOCK
    assert (second["prompt_tokens"], second["cached_tokens"]) == (2 * tokens, cached)
    written = tokens_of(path, whole.json(), events)
    assert min(written) > 0
    assert (first["completion_tokens"], second["completion_tokens"]) == (written[0], sum(written))
    assert second["context_tokens"] >= tokens + written[1]
    assert (second["phase"], second["in_flight"]) == ("acting", 0)

    after = await ours.until(counters.sample, lambda seen: seen.prompt_tokens >= before.prompt_tokens + 2 * tokens)
    assert after.prompt_tokens - before.prompt_tokens == 2 * tokens
    assert after.cached_tokens - before.cached_tokens == cached
    if path in {CHAT, "/v1/completions"}:
        assert events.pop() == "[DONE]"
        assert [event for event in events if event.get("usage") or not event["choices"]] == [], "nobody asked for usage"
    assert text_of(path, whole.json())
    assert streamed_text_of(path, events)


async def test_who_asks_for_usage_gets_it(ours, real_client):
    asked = body(program_id="curious", stream=True, stream_options={"include_usage": True})
    *_, usage, done = events_of((await ours.client.post(CHAT, json=asked)).text)
    view = await ours.program("curious")
    assert (usage["choices"], done) == ([], "[DONE]")
    assert usage["usage"]["prompt_tokens"] == view["prompt_tokens"]
    assert usage["usage"]["prompt_tokens_details"]["cached_tokens"] == view["cached_tokens"] == 0


async def test_a_conversation_that_goes_on_finds_its_beginning_cached(ours, real_client):
    first = (await ours.client.post(CHAT, json=body(program_id="talk"))).json()
    prompt = first["usage"]["prompt_tokens"]
    answer = {"role": "assistant", "content": first["choices"][0]["message"]["content"]}
    messages = [*ROUTES[CHAT]["messages"], answer, {"role": "user", "content": "And then?"}]
    second = (await ours.client.post(CHAT, json=body(program_id="talk", messages=messages))).json()
    cached = second["usage"]["prompt_tokens_details"]["cached_tokens"]
    assert prompt // BLOCK * BLOCK <= cached <= prompt + WORDS
    view = await ours.program("talk")
    assert view["cached_tokens"] == cached
    assert view["prompt_tokens"] == prompt + second["usage"]["prompt_tokens"]
    released = await ours.client.post("/programs/release", json={"program_id": "talk"})
    assert released.json() == {"program_id": "talk", "released": True}


def tool_calls_of(text, *, stream):
    """Return names and arguments of the calls in an answer."""
    if not stream:
        calls = json.loads(text)["choices"][0]["message"]["tool_calls"]
        return [(call["function"]["name"], call["function"]["arguments"]) for call in calls]
    found = {}
    for event in events_of(text)[:-1]:
        for call in event["choices"][0]["delta"].get("tool_calls") or []:
            name, arguments = found.get(call["index"], ("", ""))
            function = call["function"]
            found[call["index"]] = name + (function.get("name") or ""), arguments + (function.get("arguments") or "")
    return list(found.values())


@pytest.mark.parametrize("stream", [False, True])
async def test_a_tool_call_comes_through(real_vllm, ours, real_client, stream):
    messages = [{"role": "user", "content": "Which city is the capital of France? Use the tool."}]
    request = body(
        messages=messages, tools=[TOOL], tool_choice="required", max_tokens=250, stream=stream, ignore_eos=False
    )
    direct = await real_client.post(CHAT, json=request)
    real_vllm.reset_prefix_cache()  # so that the same is computed again
    through = await ours.client.post(CHAT, json={**request, "program_id": "caller"})
    assert through.status_code == 200, through.text
    calls = tool_calls_of(through.text, stream=stream)
    assert {name for name, _ in calls} == {"look_up"}
    assert calls == tool_calls_of(direct.text, stream=stream)
    assert (await ours.program("caller"))["completion_tokens"] > 0


@pytest.mark.parametrize("path", [CHAT, "/v1/messages"])
async def test_an_unknown_model_is_the_engines_own_404(ours, real_client, path):
    wrong = body(path, model="gpt-9")
    direct = await real_client.post(path, json=wrong)
    through = await ours.client.post(path, json={**wrong, "program_id": "mistaken"})
    assert through.status_code == direct.status_code == 404
    assert through.content == direct.content
    assert (await ours.client.get("/programs/mistaken")).status_code == 404


async def test_a_context_too_long_for_the_model_is_the_engines_own_400(ours, real_client):
    long = body(messages=[{"role": "user", "content": LONG * 40}])
    direct = await real_client.post(CHAT, json=long)
    through = await ours.client.post(CHAT, json={**long, "program_id": "long"})
    assert through.status_code == direct.status_code == 400
    assert through.content == direct.content


async def test_a_context_too_long_for_the_pool_is_ours(ours, real_client):
    long = body(messages=[{"role": "user", "content": LONG * 200}], program_id="longer")
    answer = await ours.client.post(CHAT, json=long)
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "context_too_large")
    assert answer.headers["x-should-retry"] == "false"


async def test_a_client_that_goes_away_frees_the_engine(ours, real_client, counters):
    endless = body(program_id="leaver", max_tokens=7_000, ignore_eos=True, stream=True)
    async with ours.client.stream("POST", CHAT, json=endless) as answer, aclosing(answer.aiter_lines()) as lines:
        await anext(lines)
        await ours.until(counters.sample, lambda seen: seen.running == 1)
        assert (await ours.program("leaver"))["phase"] == "reasoning"
    idle = await ours.until(counters.sample, lambda seen: seen.running == 0)
    assert (idle.waiting, idle.kv_usage) == (0, 0.0)
    view = await ours.until(lambda: ours.program("leaver"), lambda seen: seen["phase"] == "acting")
    assert view["in_flight"] == 0
    again = await ours.client.post(CHAT, json=body(program_id="leaver"))
    assert again.status_code == 200


async def test_kv_events_carry_the_programs_id(real_vllm, ours, real_client):
    async with KvEventSource(real_vllm.url, timeout_s=PATIENT_S) as source:
        await anext(source)
        prompts = {}
        for program, path in (("one", CHAT), ("two", "/v1/completions")):
            fields = {"messages": [{"role": "user", "content": f"{program}: {LONG}"}], "prompt": f"{program}: {LONG}"}
            own = {name: value for name, value in fields.items() if name in ROUTES[path]}
            answer = await ours.client.post(path, json=body(path, program_id=program, **own))
            prompts[program] = answer.raise_for_status().json()["usage"]["prompt_tokens"]
        blocks = dict.fromkeys(prompts, 0)
        while any(blocks[program] < tokens // BLOCK for program, tokens in prompts.items()):
            for event in (await anext(source)).events:
                if isinstance(event, BlockStored) and event.session_id in blocks:
                    blocks[event.session_id] += len(event.block_hashes)
        assert all(blocks[program] <= (tokens + WORDS) // BLOCK for program, tokens in prompts.items())


async def test_an_engine_that_is_killed_mid_stream_and_comes_back(real_vllm, ours, real_client):
    """Its stream ends with an error, its program owes nothing; who asks meanwhile is told to come back."""
    endless = body(program_id="survivor", max_tokens=7_000, ignore_eos=True, stream=True)
    try:
        async with ours.client.stream("POST", CHAT, json=endless) as answer, aclosing(answer.aiter_lines()) as lines:
            await anext(lines)
            await asyncio.to_thread(real_vllm.kill)
            rest = [line async for line in lines if line]
        assert json.loads(rest[-1].removeprefix("data: "))["error"]["code"] == "upstream_broke_off"
        view = await ours.until(lambda: ours.program("survivor"), lambda seen: seen["phase"] == "acting")
        assert (view["in_flight"], view["prompt_tokens"], view["completion_tokens"]) == (0, 0, 0)
        await ours.until(ours.backend, lambda seen: not seen["healthy"])
        assert (await ours.client.get("/ready")).status_code == 503
        refused = await ours.client.post(CHAT, json=body(program_id="newcomer"))
        assert (refused.status_code, refused.json()["error"]["code"]) == (503, "no_healthy_backend")
        assert 1 <= int(refused.headers["retry-after"]) <= 30
    finally:
        await asyncio.to_thread(real_vllm.start)
    await ours.until(ours.backend, lambda seen: seen["healthy"])
    again = await ours.client.post(CHAT, json=body(program_id="survivor"))
    assert again.status_code == 200, again.text
    assert (await ours.program("survivor"))["completion_tokens"] == WORDS
