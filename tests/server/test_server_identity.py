"""Who asks, what of it the engine sees, and which headers pass."""

from __future__ import annotations

from urllib.parse import quote, unquote

import pytest
from server_tools import CHAT, messages, soon

NESTED = {"agentic_context": {"program_id": "xargs"}}


@pytest.mark.parametrize(
    ("body", "headers", "expected"),
    [
        ({"program_id": "top"}, {}, "top"),
        ({"extra_body": {"program_id": "extra"}}, {}, "extra"),
        ({"vllm_xargs": NESTED}, {}, "xargs"),
        ({}, {"X-Program-ID": "header"}, "header"),
        ({}, {"X-Session-ID": "session"}, "session"),
        ({"program_id": "top", "extra_body": {"program_id": "extra"}, "vllm_xargs": NESTED}, {}, "top"),
        ({"extra_body": {"program_id": "extra"}, "vllm_xargs": NESTED}, {"X-Program-ID": "header"}, "extra"),
        ({"vllm_xargs": NESTED}, {"X-Program-ID": "header", "X-Session-ID": "session"}, "xargs"),
        ({}, {"X-Session-ID": "session", "X-Program-ID": "header"}, "header"),
        ({"program_id": "top"}, {"X-Session-ID": "session"}, "top"),
    ],
)
async def test_the_first_match_wins_and_leaves_no_trace_in_the_body(engine, serve, body, headers, expected):
    run = await serve(engine)
    await run.client.post(CHAT, json={**messages(), **body}, headers=headers)
    assert list(run.scheduler.programs) == [expected]
    assert engine.bodies() == [messages()]
    assert engine.seen[0].header(b"x-session-id") == expected.encode()
    assert sum(name == b"x-session-id" for name, _ in engine.seen[0].headers) == 1


async def test_what_stands_beside_the_identity_is_kept(engine, serve):
    run = await serve(engine)
    fields = {
        "extra_body": {"program_id": "p", "top_k": 3},
        "vllm_xargs": {"agentic_context": {"program_id": "p", "turn": 2}, "other": 1},
    }
    await run.client.post(CHAT, json=messages(**fields))
    kept = {"extra_body": {"top_k": 3}, "vllm_xargs": {"agentic_context": {"turn": 2}, "other": 1}}
    assert engine.bodies() == [messages(**kept)]


async def test_the_engine_knows_the_session_of_a_program_by_its_id_alone(engine, serve):
    run = await serve(engine)
    await run.chat("p", session_id="another")
    await run.client.post(CHAT, json=messages(session_id="another"), headers={"X-Program-ID": "p"})
    await run.chat(None, session_id="untracked")
    assert engine.bodies() == [messages(), messages(), messages(session_id="untracked")]


async def test_containers_without_an_identity_are_kept(engine, serve):
    run = await serve(engine)
    fields = {"extra_body": {}, "vllm_xargs": {"agentic_context": {}}, "metadata": {"program_id": "not ours"}}
    await run.client.post(CHAT, json=messages(**fields), headers={"X-Program-ID": "p"})
    assert engine.bodies() == [messages(**fields)]


@pytest.mark.parametrize("path", ["/v1/completions", "/v1/responses", "/v1/messages"])
async def test_every_dialect_knows_identity(engine, serve, path):
    run = await serve(engine)
    body = {"prompt": "hi", "input": "hi", "messages": [{"role": "user", "content": "hi"}]}
    await run.client.post(path, json={**body, "extra_body": {"program_id": "p"}})
    assert list(run.scheduler.programs) == ["p"]
    assert engine.bodies() == [body]


async def test_fault_10_requests_without_identity_are_never_one_program(engine, serve):
    run = await serve(engine)
    for _ in range(5):
        assert (await run.chat(None)).status_code == 200
    assert (await run.get("/programs"))["programs"] == []
    assert all(request.header(b"x-session-id") is None for request in engine.seen)
    assert run.runtime.decisions == {"Forward": 5}
    program = await run.chat("default")
    assert program.status_code == 200
    assert (await run.program("default"))["steps"] == 1, "an id like any other"


async def test_fault_13_end_to_end_headers_pass_and_hop_by_hop_headers_do_not(engine, serve, raw):
    run = await serve(engine)
    client = await raw(run.port)
    client.post(
        CHAT,
        messages(),
        "Authorization: Bearer of-the-client",
        "X-API-Key: also",
        "traceparent: 00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
        "tracestate: a=b",
        "baggage: user=1",
        "X-Request-ID: 17",
        "X-Session-ID: untouched",
        "X-Custom: one",
        "X-Custom: two",
        "Connection: keep-alive, X-Private",
        "X-Private: between you and me",
        "Keep-Alive: timeout=5",
        "TE: trailers",
        "Proxy-Authorization: Basic eA==",
        "Accept-Encoding: gzip",
        "Content-Type: application/json",
    )
    await client.head()
    seen = engine.seen[0]
    for name, value in (
        (b"authorization", b"Bearer of-the-client"),
        (b"x-api-key", b"also"),
        (b"traceparent", b"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"),
        (b"tracestate", b"a=b"),
        (b"baggage", b"user=1"),
        (b"x-request-id", b"17"),
        (b"x-session-id", b"untouched"),
        (b"content-type", b"application/json"),
    ):
        assert seen.header(name) == value
    assert [value for name, value in seen.headers if name == b"x-custom"] == [b"one", b"two"]
    names = {name for name, _ in seen.headers}
    assert not names & {b"x-private", b"keep-alive", b"te", b"proxy-authorization", b"accept-encoding", b"connection"}
    assert seen.header(b"host") == f"127.0.0.1:{engine.port}".encode()


async def test_fault_13_headers_of_the_answer(engine, serve):
    async def reply(_engine, _request, respond):
        headers = [(b"content-type", b"application/json"), (b"x-kept", b"1"), (b"keep-alive", b"timeout=5")]
        respond.send(200, headers, b"{}")

    engine.reply = reply
    run = await serve(engine)
    response = await run.chat("p")
    assert response.headers["x-kept"] == "1"
    assert "keep-alive" not in response.headers
    assert len(response.headers.get_list("date")) == 1


async def test_a_key_for_the_engines_replaces_the_clients(engine, serve):
    run = await serve(engine, backend_api_key="engine-key")
    headers = {"Authorization": "Bearer of-the-client", "X-API-Key": "also"}
    await run.client.post(CHAT, json=messages(), headers=headers)
    await run.client.get("/v1/embeddings/x", headers=headers)
    assert [r.header(b"authorization") for r in engine.seen] == [b"Bearer engine-key"] * 2
    assert [r.header(b"x-api-key") for r in engine.seen] == [None] * 2


@pytest.mark.parametrize(
    ("program_id", "sent"),
    [
        ("plain id/with:signs", b"plain id/with:signs"),
        ("agent-ü-日本", b"agent-%C3%BC-%E6%97%A5%E6%9C%AC"),
        ("50%", b"50%25"),
        (" spaced ", b"%20spaced%20"),
        ("a\u2003b", b"a%E2%80%83b"),
        ("x" * 256, b"x" * 256),
    ],
)
async def test_any_id_reaches_the_engine_as_a_header(engine, serve, program_id, sent):
    run = await serve(engine)
    assert (await run.chat(program_id)).status_code == 200
    assert list(run.scheduler.programs) == [program_id]
    assert engine.seen[0].header(b"x-session-id") == sent
    assert unquote(sent.decode()) == program_id


async def test_an_id_in_a_header_is_read_as_utf_8(engine, serve):
    run = await serve(engine)
    await run.client.post(CHAT, json=messages(), headers=[(b"X-Program-ID", "agent-ü".encode())])
    await run.client.post(CHAT, json=messages(), headers=[(b"X-Program-ID", "latin-ü".encode("latin-1"))])
    assert list(run.scheduler.programs) == ["agent-ü", "latin-ü"]


@pytest.mark.parametrize("program_id", ["agent ü", "a/b", "a%2Fb", "50%", "release", "..", "events", "a?b#c"])
async def test_any_id_can_stand_in_a_path(engine, serve, program_id):
    run = await serve(engine)
    await run.chat(program_id)
    await run.idle()
    # httpx would tidy dots away, as the address bar does.
    path = "/programs/" + quote(program_id, safe="").replace(".", "%2E")
    assert (await run.get(path))["program_id"] == program_id
    event = await run.client.post(path + "/events", json={"type": "tool_started", "tool": "bash"})
    assert (event.status_code, event.json()["tool"]) == (202, "bash")
    gone = await run.client.delete(path)
    assert (gone.status_code, gone.json()) == (200, {"program_id": program_id, "released": True})
    await soon(lambda: not run.scheduler.programs)
