"""Engines that fail in the middle of a stream: the client is told in the stream, and nothing is charged."""

from __future__ import annotations

import json

import pytest
from scripted_engine import Gate, delta, die_after, recorded, streamed
from server_tools import CHAT, RARELY, messages, soon


def parse_events(body: bytes) -> list[tuple[str | None, dict]]:
    events = []
    for block in body.decode().strip().split("\n\n"):
        lines = dict(line.split(": ", 1) for line in block.splitlines())
        events.append((lines.get("event"), json.loads(lines["data"])))
    return events


@pytest.mark.parametrize(
    ("path", "start"),
    [
        (CHAT, delta("begun")),
        ("/v1/completions", b'data: {"choices":[{"index":0,"text":"begun"}]}\n\n'),
        ("/v1/responses", b'event: response.created\ndata: {"type":"response.created","note":"begun"}\n\n'),
        ("/v1/messages", b'event: message_start\ndata: {"type":"message_start","note":"begun"}\n\n'),
    ],
)
async def test_dying_in_a_stream_is_reported_in_it_and_nothing_is_charged(two, serve, path, start):
    first, second = two
    usage = b'data: {"choices":[],"usage":{"prompt_tokens":900,"completion_tokens":9}}\n\n'
    run = await serve(first, second, **RARELY)
    first.reply = die_after(start + usage + b'data: {"half')
    body = {**messages(), "prompt": "x", "input": "x", "stream": True, "program_id": "p"}
    response = await run.client.post(path, json=body)
    assert response.status_code == 200
    assert response.content.startswith(start)
    assert b"half" not in response.content, "no part of an event"
    assert b"[DONE]" not in response.content
    name, error = parse_events(response.content)[-1]
    match path:
        case "/v1/messages":
            assert name == error["type"] == "error"
            assert error["error"]["type"] == "api_error"
        case "/v1/responses":
            assert name == error["type"] == "error"
            assert error["code"] == "upstream_broke_off"
        case _:
            assert name is None
            assert error["error"]["code"] == "upstream_broke_off"
    await run.idle()
    program = await run.program("p")
    assert (program["phase"], program["steps"], program["prompt_tokens"]) == ("acting", 0, 0)
    assert program["context_tokens"] == 0
    assert second.seen == []
    assert run.runtime.outcomes == {"upstream_error": 1}
    await soon(lambda: first.polls > 3)  # it is looked at, though not due for ten minutes


STREAMED_ERRORS = [
    (CHAT, b'data: {"error": {"message": "dead", "type": "InternalServerError", "code": 500}}\n\ndata: [DONE]\n\n'),
    ("/v1/messages", b'event: error\ndata: {"type":"error","error":{"type":"api_error","message":"dead"}}\n\n'),
    ("/v1/responses", b'event: error\ndata: {"type":"error","code":"server_error","message":"dead"}\n\n'),
    ("/v1/responses", b'data: {"type":"response.failed","response":{"error":{"code":"server_error"}}}\n\n'),
]


@pytest.mark.parametrize(("path", "error"), STREAMED_ERRORS)
async def test_an_engine_that_ends_its_stream_in_good_order_with_an_error_has_failed(two, serve, path, error):
    """So does a vLLM that is being stopped: an error event, then the usual end of a stream."""
    first, second = two
    first.reply = streamed(error)
    second.reply = streamed(delta("well"))
    run = await serve(first, second, **RARELY)
    body = {**messages(), "input": "x", "stream": True, "program_id": "p"}
    response = await run.client.post(path, json=body)
    assert response.content == delta("well"), "nothing had been sent, so another engine was asked"
    await run.idle()
    assert run.runtime.outcomes == {"completed": 1}
    assert (len(first.seen), len(second.seen)) == (1, 1)


@pytest.mark.parametrize(("path", "error"), STREAMED_ERRORS)
async def test_an_error_after_the_first_event_is_the_clients_to_read(two, serve, raw, path, error):
    first, second = two
    first.reply = gate = Gate(first=delta("begun"), last=error)
    run = await serve(first, second, **RARELY)
    client = await raw(run.port)
    client.post(path, {**messages(), "input": "x", "stream": True, "program_id": "p"}, "Connection: close")
    await client.until(b"begun")
    gate.open()
    assert error in await client.rest()
    await run.idle()
    assert run.runtime.outcomes == {"upstream_error": 1}
    program = await run.program("p")
    assert (program["phase"], program["steps"], program["context_tokens"]) == ("acting", 0, 0)
    assert (len(first.seen), len(second.seen)) == (1, 0)


async def test_what_a_stopping_vllm_streams_is_passed_on_and_not_charged(engine, serve):
    engine.reply = streamed(recorded("chat_stream_engine_stopped.sse"), 100)
    run = await serve(engine)
    assert (await run.chat("p", stream=True)).content == recorded("chat_stream_engine_stopped.sse")
    await run.idle()
    assert (await run.program("p"))["steps"] == 0


async def test_a_streamed_error_that_is_the_clients_own_is_not_repeated(two, serve):
    first, second = two
    error = b'data: {"error":{"message":"no such tool","code":400}}\n\ndata: [DONE]\n\n'
    first.reply = second.reply = streamed(error)
    run = await serve(first, second)
    assert (await run.chat("p", stream=True)).content == error
    assert len(first.seen) + len(second.seen) == 1
