"""SPEC's table of bad input: the right answer, and no state that it changed."""

from __future__ import annotations

import json

import pytest
from scripted_engine import JSON, recorded, whole
from server_tools import CHAT, check_error, messages

ALL = ["/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/messages"]
FIELD = dict(zip(ALL, ["messages", "prompt", "input", "messages"], strict=True))


@pytest.mark.parametrize("path", ALL)
@pytest.mark.parametrize(
    "body",
    [b"", b"not json", b"[]", b'"text"', b"null", b"{", b'{"a":1}x', b"\xff\xfe", b"[" * 100_000, b'{"a":' * 100_000],
)
async def test_not_a_json_object(run, engine, path, body):
    before = await run.state()
    check_error(await run.client.post(path, content=body), 400, None, code="invalid_json")
    assert await run.state() == before
    assert engine.seen == []


@pytest.mark.parametrize("path", ALL)
async def test_no_prompt(run, engine, path):
    before = await run.state()
    for body in ({"program_id": "new"}, {"program_id": "new", FIELD[path]: None}):
        check_error(await run.client.post(path, json=body), 400, FIELD[path])
    assert await run.state() == before
    assert engine.seen == []


@pytest.mark.parametrize(
    ("path", "changes", "param"),
    [
        (CHAT, {"messages": "hello"}, "messages"),
        (CHAT, {"messages": {}}, "messages"),
        (CHAT, {"messages": []}, "messages"),
        (CHAT, {"messages": [{"role": "user", "content": "x"}, "y"]}, "messages[1]"),
        ("/v1/messages", {"messages": 5}, "messages"),
        ("/v1/completions", {"prompt": 5}, "prompt"),
        ("/v1/completions", {"prompt": {"a": 1}}, "prompt"),
        ("/v1/completions", {"prompt": []}, "prompt"),
        ("/v1/completions", {"prompt": ["a", 5]}, "prompt"),
        ("/v1/responses", {"input": 5}, "input"),
        (CHAT, {"model": 5}, "model"),
        (CHAT, {"stream": "yes"}, "stream"),
        (CHAT, {"stream": 0}, "stream"),
        (CHAT, {"stream": []}, "stream"),
        (CHAT, {"stream": True, "stream_options": "all"}, "stream_options"),
        (CHAT, {"stream": True, "stream_options": []}, "stream_options"),
    ],
)
async def test_wrong_types(run, engine, path, changes, param):
    before = await run.state()
    body = {"program_id": "new", **messages(), "prompt": "x", "input": "x", **changes}
    check_error(await run.client.post(path, json=body), 400, param)
    assert await run.state() == before
    assert engine.seen == []


@pytest.mark.parametrize("bad", ["", "x" * 257, "a\nb", "a\x00", "\x7f", "a\x85b", 5, None, ["p"], {}, True])
async def test_bad_program_ids(run, engine, bad):
    before = await run.state()
    for fields in ({"program_id": bad}, {"extra_body": {"program_id": bad}}):
        check_error(await run.client.post(CHAT, json=messages(**fields)), 400, "program_id")
    nested = {"vllm_xargs": {"agentic_context": {"program_id": bad}}}
    check_error(await run.client.post(CHAT, json=messages(**nested)), 400, "program_id")
    check_error(await run.client.post("/programs", json={"program_id": bad}), 400, "program_id")
    check_error(await run.client.post("/programs/release", json={"program_id": bad}), 400, "program_id")
    assert await run.state() == before
    assert engine.seen == []


@pytest.mark.parametrize("header", ["X-Program-ID", "X-Session-ID"])
@pytest.mark.parametrize("bad", [b"", b"x" * 257, b"tab\tinside", b"\xc2\x85"])
async def test_bad_program_ids_in_headers(run, header, bad):
    before = await run.state()
    response = await run.client.post(CHAT, json=messages(), headers=[(header.encode(), bad)])
    check_error(response, 400, header)
    assert await run.state() == before


async def test_a_body_over_the_limit_is_refused_before_it_is_read_whole(run, engine, raw):
    before = await run.state()
    client = await raw(run.port)
    client.send(b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: 1000001\r\n\r\n")
    head = await client.head()
    assert head.startswith(b"HTTP/1.1 413 ")
    assert b"x-should-retry: false" in head.lower()
    error = json.loads(await client.rest())["error"]
    assert error["code"] == "request_too_large"
    assert error["type"] == "invalid_request_error"
    unannounced = await raw(run.port)
    unannounced.send(b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n")
    for _ in range(11):
        unannounced.send(b"186a0\r\n" + b"x" * 100_000 + b"\r\n")
    assert (await unannounced.head()).startswith(b"HTTP/1.1 413 ")
    assert await run.state() == before
    assert engine.seen == []


@pytest.mark.parametrize("path", ALL)
async def test_a_context_that_fits_no_pool(run, engine, path):
    before = await run.state()
    text = "x" * 500_000  # at most 4 characters to the token, twice that at the very least: over 16,384 either way
    content = [{"role": "user", "content": text}] if FIELD[path] == "messages" else text
    body = {"program_id": "new", FIELD[path]: content}
    response = await run.client.post(path, json=body)
    check_error(response, 400, FIELD[path], code="context_too_large")
    assert response.headers["x-should-retry"] == "false"
    exact = await run.client.post("/v1/completions", json={"program_id": "new", "prompt": [1] * 16_385})
    check_error(exact, 400, "prompt", code="context_too_large")
    assert await run.state() == before
    assert engine.seen == []


@pytest.mark.parametrize("stream", [False, True])
async def test_an_unknown_model_is_answered_by_the_engine(run, engine, stream):
    engine.reply = whole(404, recorded("error_unknown_model.json"))
    before = await run.state()
    response = await run.client.post(CHAT, json={**messages(stream=stream), "model": "nobody", "program_id": "new"})
    assert (response.status_code, response.content) == (404, recorded("error_unknown_model.json"))
    await run.idle()
    programs, backends, _ended = await run.state()
    assert (programs, backends) == before[:2], "a program that never was served is not kept"
    assert len(engine.seen) == 1


async def test_a_request_that_the_engine_rejects_changes_nothing_of_a_known_program(run, engine):
    engine.reply = whole(400, recorded("error_context_too_long.json"))
    before = await run.state()
    assert (await run.chat("bystander", "much more text than before")).status_code == 400
    await run.idle()
    assert await run.state() == before
    assert (await run.chat("registered")).status_code == 400
    await run.idle()
    registered = await run.program("registered")
    assert (registered["steps"], registered["context_tokens"]) == (0, 0), "it was announced, so it is kept"


async def test_no_healthy_backend(engine_factory, serve):
    engine = await engine_factory()
    run = await serve(engine)
    await run.chat("bystander")
    await run.idle()
    await engine.stop()
    await run.healthy(0)
    before = await run.state()
    for program in ("new", "bystander", None):
        response = await run.chat(program)
        check_error(response, 503, None, code="no_healthy_backend")
        assert "retry-after" in response.headers
    check_error(await run.client.get("/v1/models"), 503, None, code="no_healthy_backend")
    check_error(await run.client.get("/ready"), 503, None, code="no_healthy_backend")
    assert await run.state() == before


async def test_odd_requests_are_passed_to_the_engine_and_not_broken(run, engine):
    engine.reply = whole(200, b"{}", JSON)
    tool = {"role": "assistant", "content": None, "tool_calls": [{"function": {"name": "f", "arguments": "{}"}}]}
    odd = {"messages": [tool, {"role": "tool", "content": [{"type": "text", "text": "x"}]}], "tools": [], "n": 0}
    assert (await run.client.post(CHAT, json=odd)).status_code == 200
    assert (await run.client.post("/v1/completions", json={"prompt": [[1, 2], [3]]})).status_code == 200
    assert (await run.client.post("/v1/responses", json={"input": [], "store": None})).status_code == 200
    assert len(engine.seen) == 3
