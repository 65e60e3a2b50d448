"""Answers reach the client as the engine sent them, but for the usage that we asked for ourselves."""

from __future__ import annotations

import json

import pytest
from scripted_engine import EVENTS, JSON, recorded, streamed, whole
from server_tools import messages, soon

BODIES = {
    "/v1/chat/completions": messages("What is the capital of France?"),
    "/v1/completions": {"model": "m", "prompt": "The capital of France is"},
    "/v1/responses": {"model": "m", "input": "What is the capital of France?"},
    "/v1/messages": {**messages("What is the capital of France?"), "max_tokens": 12},
}
WHOLE = [
    ("/v1/chat/completions", "chat.json"),
    ("/v1/chat/completions", "chat_tool_call.json"),
    ("/v1/completions", "completion.json"),
    ("/v1/responses", "responses.json"),
    ("/v1/messages", "messages.json"),
]
STREAMS = [
    ("/v1/chat/completions", "chat_stream_usage.sse"),
    ("/v1/chat/completions", "chat_stream_continuous_usage.sse"),
    ("/v1/chat/completions", "chat_tool_call_stream.sse"),
    ("/v1/completions", "completion_stream_usage.sse"),
    ("/v1/responses", "responses_stream.sse"),
    ("/v1/messages", "messages_stream.sse"),
]


def usage_in(payload: bytes) -> tuple[int, int]:
    """Read prompt and completion tokens as a person would: from the last usage there is."""
    if payload.startswith(b"{"):
        events = [json.loads(payload)]
    else:
        events = [json.loads(line[6:]) for line in payload.splitlines() if line.startswith(b"data: {")]
    found = [e.get("usage") or e.get("response", {}).get("usage") or e.get("message", {}).get("usage") for e in events]
    usage = [u for u in found if u][-1]
    if "input_tokens" in usage:
        cached = usage.get("cache_read_input_tokens", 0)
        return usage["input_tokens"] + cached, usage["output_tokens"]
    return usage["prompt_tokens"], usage["completion_tokens"]


@pytest.mark.parametrize(("path", "name"), WHOLE)
async def test_whole_answers_pass_unchanged_and_are_counted(engine, serve, path, name):
    payload = recorded(name)
    engine.reply = whole(200, payload, [*JSON, (b"x-engine", b"yes")])
    run = await serve(engine)
    response = await run.client.post(path, json={**BODIES[path], "program_id": "p"})
    assert response.status_code == 200
    assert response.content == payload
    assert response.headers["x-engine"] == "yes"
    await run.idle()
    program = await run.program("p")
    assert (program["prompt_tokens"], program["completion_tokens"]) == usage_in(payload)
    assert program["steps"] == 1
    assert program["context_tokens"] == sum(usage_in(payload))


@pytest.mark.parametrize("size", [1, 7, 4096, 1 << 20])
@pytest.mark.parametrize(("path", "name"), STREAMS)
async def test_streams_pass_unchanged_where_usage_was_asked_for(engine, serve, path, name, size):
    payload = recorded(name)
    engine.reply = streamed(payload, size)
    run = await serve(engine)
    body = {**BODIES[path], "stream": True, "program_id": "p"}
    if "chat" in path or path == "/v1/completions":
        body["stream_options"] = {"include_usage": True, "continuous_usage_stats": "continuous" in name}
    response = await run.client.post(path, json=body)
    assert response.content == payload
    assert response.headers["content-type"] == "text/event-stream; charset=utf-8"
    await run.idle()
    program = await run.program("p")
    assert (program["prompt_tokens"], program["completion_tokens"]) == usage_in(payload)


@pytest.mark.parametrize("size", [1, 4096])
@pytest.mark.parametrize("name", ["chat_stream_usage.sse", "completion_stream_usage.sse", "chat_tool_call_stream.sse"])
async def test_fault_14_usage_that_only_we_asked_for_is_not_seen(engine, serve, name, size):
    payload = recorded(name)
    engine.reply = streamed(payload, size)
    run = await serve(engine)
    path = "/v1/completions" if "completion" in name else "/v1/chat/completions"
    response = await run.client.post(path, json={**BODIES[path], "stream": True, "program_id": "p"})
    events = payload.split(b"\n\n")
    assert response.content == b"\n\n".join(e for e in events if b'"choices":[],' not in e)
    assert len(response.content) < len(payload)
    assert engine.bodies()[0]["stream_options"] == {"include_usage": True}
    await run.idle()
    assert ((await run.program("p"))["prompt_tokens"], (await run.program("p"))["completion_tokens"]) == usage_in(
        payload
    )


@pytest.mark.parametrize(
    "options",
    [None, {}, {"include_usage": False}, {"continuous_usage_stats": True}, {"include_usage": None, "other": 1}],
)
async def test_fault_14_other_stream_options_are_kept(engine, serve, options):
    run = await serve(engine)
    response = await run.chat("p", stream=True, stream_options=options)
    assert b'"usage"' not in response.content
    kept = {k: v for k, v in (options or {}).items() if k == "other"}
    assert engine.bodies()[0]["stream_options"] == {**kept, "include_usage": True}


async def test_fault_14_untracked_streams_are_not_altered_either(engine, serve):
    engine.reply = streamed(recorded("chat_stream_usage.sse"))
    run = await serve(engine)
    response = await run.chat(None, stream=True)
    assert b'"usage"' not in response.content
    assert response.content.endswith(b"data: [DONE]\n\n")


async def test_the_request_reaches_the_engine_as_it_was_sent(engine, serve):
    run = await serve(engine)
    body = (
        b'{ "model" : "m",  "messages":[{"role":"user","content":"\\u00fc \xc3\xbc"}], "seed": 12345678901234567890 }'
    )
    response = await run.client.post("/v1/chat/completions?api-version=1&x=%20y", content=body)
    assert response.status_code == 200
    assert engine.seen[0].body == body
    assert engine.seen[0].query == "api-version=1&x=%20y"


async def test_a_body_that_must_change_keeps_its_values(engine, serve):
    run = await serve(engine)
    fields = {"seed": 12345678901234567890123, "temperature": 0.1, "logit_bias": {"5": -1.5}, "user": "ü\u2028\x00"}
    await run.chat("p", "ü", **fields)
    assert engine.bodies()[0] == messages("ü", **fields)


async def test_an_engine_that_answers_a_stream_request_with_one_document(engine, serve):
    engine.reply = whole(200, recorded("chat.json"))
    run = await serve(engine)
    response = await run.chat("p", stream=True)
    assert response.content == recorded("chat.json")
    await run.idle()
    assert (await run.program("p"))["prompt_tokens"] == usage_in(recorded("chat.json"))[0]


async def test_errors_of_the_engine_pass_unchanged(engine, serve):
    run = await serve(engine)
    for name, status in (("error_unknown_model.json", 404), ("error_context_too_long.json", 400)):
        engine.reply = whole(status, recorded(name), [*JSON, (b"retry-after", b"7")])
        for stream in (False, True):
            response = await run.chat("p", stream=stream)
            assert (response.status_code, response.content) == (status, recorded(name))
            assert response.headers["retry-after"] == "7"


async def test_a_stream_without_a_last_blank_line_is_passed_on_whole(engine, serve):
    engine.reply = streamed(b'data: {"id":1}\n\ndata: [DONE]', 3)
    run = await serve(engine)
    assert (await run.chat("p", stream=True)).content == b'data: {"id":1}\n\ndata: [DONE]'


async def test_growth_is_reported_while_the_answer_streams(engine, serve):
    many = b"".join(b'data: {"choices":[{"delta":{"content":"%d"}}]}\n\n' % n for n in range(200))

    async def reply(_engine, _request, respond):
        respond.start(200, EVENTS)
        respond.write(many)
        await soon(lambda: run.scheduler.programs["p"].context_tokens >= 200)
        respond.write(b"data: [DONE]\n\n")
        respond.finish()

    engine.reply = reply
    run = await serve(engine)
    response = await run.chat("p", "hi", stream=True)
    assert response.content == many + b"data: [DONE]\n\n"
