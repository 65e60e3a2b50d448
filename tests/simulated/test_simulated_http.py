"""Every route, over sockets."""

from __future__ import annotations

import asyncio

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families
from simulated_helpers import chat, eventually, sample, sse

from thunderagent_core.engines.simulated.engine import SimulatedEngine

GENERATE = {
    "/v1/chat/completions": chat(),
    "/v1/completions": {"model": "sim", "prompt": "Once upon a time", "max_tokens": 8},
    "/v1/responses": {"model": "sim", "input": "Hello", "max_output_tokens": 8},
    "/v1/messages": chat(),
}


async def test_everything_says_that_it_is_simulated(client):
    answers = [await client.post(path, json=body) for path, body in GENERATE.items()]
    others = ("/health", "/version", "/load", "/metrics", "/v1/models", "/kv_event_sources", "/nowhere")
    answers += [await client.get(path) for path in others]
    assert {answer.headers["x-simulated-engine"] for answer in answers} == {"thunderagent"}
    assert answers[0].json()["system_fingerprint"] == "simulated"
    assert (await client.get("/version")).json()["simulated"] is True


async def test_chat_usage_counts_cached_tokens(client):
    body = chat("word " * 200)
    first = (await client.post("/v1/chat/completions", json=body)).json()
    again = (await client.post("/v1/chat/completions", json=body)).json()
    usage = again["usage"]
    assert usage["completion_tokens"] == 8
    assert usage["total_tokens"] == usage["prompt_tokens"] + 8
    assert first["usage"]["prompt_tokens_details"]["cached_tokens"] == 0
    cached = usage["prompt_tokens_details"]["cached_tokens"]
    assert cached == (usage["prompt_tokens"] - 1) // 16 * 16
    assert first["choices"][0]["finish_reason"] == "length"
    assert first["choices"] == again["choices"]


async def test_the_next_turn_reuses_prompt_and_answer(client):
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "word " * 60}]
    first = (await client.post("/v1/chat/completions", json={"messages": messages, "max_tokens": 50})).json()
    messages += [first["choices"][0]["message"], {"role": "user", "content": "And now?"}]
    second = (await client.post("/v1/chat/completions", json={"messages": messages, "max_tokens": 5})).json()
    computed = first["usage"]["total_tokens"] - 1
    assert second["usage"]["prompt_tokens_details"]["cached_tokens"] == computed // 16 * 16


@pytest.mark.parametrize("path", GENERATE)
async def test_without_max_tokens_an_answer_ends_by_itself(client, path):
    body = {key: value for key, value in GENERATE[path].items() if "tokens" not in key}
    answer = await client.post(path, json=body)
    if path == "/v1/messages":
        assert answer.status_code == 400
    elif path == "/v1/responses":
        assert answer.json()["status"] == "completed"
        assert answer.json()["usage"]["output_tokens"] == 64
    elif path == "/v1/completions":
        assert answer.json()["usage"]["completion_tokens"] == 16
    else:
        assert answer.json()["choices"][0]["finish_reason"] == "stop"


async def test_completions_take_token_ids(client):
    tokens = (await client.post("/tokenize", json={"prompt": "Once upon a time"})).json()["tokens"]
    texts = [
        (await client.post("/v1/completions", json={"prompt": prompt})).json()["choices"][0]["text"]
        for prompt in ("Once upon a time", tokens, ["Once upon a time"])
    ]
    assert len(set(texts)) == 1


async def test_streamed_usage_comes_only_where_it_was_asked_for(client):
    plain = sse((await client.post("/v1/chat/completions", json=chat(stream=True))).text)
    assert plain[-1] == (None, "[DONE]")
    assert all(data["choices"] and "usage" not in data for _, data in plain[:-1])
    assert plain[-2][1]["system_fingerprint"] == "simulated"

    options = {"include_usage": True}
    asked = sse((await client.post("/v1/chat/completions", json=chat(stream=True, stream_options=options))).text)
    usage = asked[-2][1]
    assert (usage["choices"], usage["usage"]["completion_tokens"]) == ([], 8)
    assert all("usage" not in data for _, data in asked[:-2])

    options["continuous_usage_stats"] = True
    always = sse((await client.post("/v1/chat/completions", json=chat(stream=True, stream_options=options))).text)
    assert [data["usage"]["completion_tokens"] for _, data in always[:-1]] == [0, *range(1, 9), 8]


async def test_a_stream_has_the_text_of_the_whole_answer(client):
    whole = (await client.post("/v1/chat/completions", json=chat())).json()["choices"][0]["message"]["content"]
    events = sse((await client.post("/v1/chat/completions", json=chat(stream=True))).text)
    deltas = [data["choices"][0]["delta"] for _, data in events[:-1]]
    assert deltas[0] == {"role": "assistant", "content": ""}
    assert "".join(delta["content"] for delta in deltas) == whole

    events = sse((await client.post("/v1/messages", json=chat(stream=True))).text)
    assert [name for name, _ in events[:2]] == ["message_start", "content_block_start"]
    assert [name for name, _ in events[-3:]] == ["content_block_stop", "message_delta", "message_stop"]
    assert "".join(data["delta"]["text"] for name, data in events if name == "content_block_delta") == whole


async def test_responses_stream_and_whole_agree(client):
    body = {"input": [{"role": "user", "content": "Hello"}], "instructions": "Be brief."}
    whole = (await client.post("/v1/responses", json=body)).json()
    events = sse((await client.post("/v1/responses", json={**body, "stream": True})).text)
    assert [data["sequence_number"] for _, data in events] == list(range(len(events)))
    assert [name for name, _ in events[:2]] == ["response.created", "response.in_progress"]
    name, last = events[-1]
    assert (name, last["response"]["status"]) == ("response.completed", "completed")
    assert last["response"]["output"][0]["content"] == whole["output"][0]["content"]
    assert last["response"]["usage"]["output_tokens"] == whole["usage"]["output_tokens"] == 64


async def test_models_load_and_health(client):
    (model,) = (await client.get("/v1/models")).json()["data"]
    assert (model["id"], model["max_model_len"]) == ("sim", 8192)
    assert (await client.get("/load")).json() == {"server_load": 0}
    assert (await client.get("/health")).content == b""
    assert (await client.get("/kv_event_sources")).json() == {}


async def test_metrics_have_vllms_names(client):
    body = chat("word " * 200)
    for _ in range(2):
        await client.post("/v1/chat/completions", json=body)
    text = (await client.get("/metrics")).text
    prompt = sample(text, "prefix_cache_queries_total") / 2
    assert sample(text, "prefix_cache_hits_total") == (prompt - 1) // 16 * 16
    assert sample(text, "prompt_tokens_total") == 2 * prompt
    assert sample(text, "generation_tokens_total") == 16
    for name in ("num_requests_running", "num_requests_waiting", "kv_cache_usage_perc", "num_preemptions_total"):
        assert sample(text, name) == 0
    families = {family.name: family for family in text_string_to_metric_families(text)}
    labels = families["vllm:cache_config_info"].samples[0].labels
    assert (labels["block_size"], labels["num_gpu_blocks"], labels["kv_cache_size_tokens"]) == ("16", "1024", "16384")
    assert families["vllm:num_requests_running"].samples[0].labels == {"engine": "0", "model_name": "sim"}


async def test_reset_prefix_cache(client):
    body = chat("word " * 200)
    await client.post("/v1/chat/completions", json=body)
    assert (await client.post("/reset_prefix_cache")).json() == {"success": True}
    answer = (await client.post("/v1/chat/completions", json=body)).json()
    assert answer["usage"]["prompt_tokens_details"]["cached_tokens"] == 0


async def test_tokenize_and_back(client):
    answer = (await client.post("/tokenize", json={"prompt": "hello, wörld"})).json()
    assert answer["count"] == len(answer["tokens"])
    assert (await client.post("/detokenize", json={"tokens": answer["tokens"]})).json() == {"prompt": "hello, wörld"}
    messages = (await client.post("/tokenize", json={"messages": chat()["messages"]})).json()
    usage = (await client.post("/v1/chat/completions", json=chat())).json()["usage"]
    assert messages["count"] == usage["prompt_tokens"]


@pytest.mark.parametrize("stream", [False, True])
async def test_a_client_that_goes_away_frees_its_blocks(settings, stream):
    async with (
        SimulatedEngine(settings(speed=1.0)) as engine,
        httpx.AsyncClient(base_url=engine.url, timeout=60) as client,
    ):
        body = chat("word " * 400, max_tokens=4000, stream=stream)
        asking = asyncio.create_task(client.post("/v1/chat/completions", json=body))
        await eventually(lambda: engine.model.num_running)
        assert (await client.get("/load")).json() == {"server_load": 1}
        asking.cancel()
        await eventually(lambda: not engine.model.num_running)
        state = (await client.get("/simulate/state")).json()
        assert (state["used_blocks"], state["statistics"]["finished"]) == (0, {"abort": 1})
        assert state["cached_blocks"] > 30, "what was computed stays reusable"
        engine.model.check()


@pytest.mark.parametrize("path", GENERATE)
async def test_many_requests_at_once_each_get_their_own_answer(client, path):
    async def ask(number):
        body = dict(GENERATE[path])
        field = next(name for name in ("messages", "prompt", "input") if name in body)
        text = f"{number} " + "word " * 30
        body[field] = [{"role": "user", "content": text}] if field == "messages" else text
        return (await client.post(path, json=body)).status_code

    assert await asyncio.gather(*(ask(number) for number in range(40))) == [200] * 40


async def test_an_answer_is_never_longer_than_the_context(client):
    body = chat("word " * 50, max_tokens=10**12)
    answer = (await client.post("/v1/chat/completions", json=body)).json()
    assert answer["usage"]["total_tokens"] == 8192
    assert answer["choices"][0]["finish_reason"] == "length"
