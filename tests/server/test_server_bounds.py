"""What clients choose has bounds: nobody fills our memory, or reaches what lies outside of /v1, with it."""

from __future__ import annotations

import pytest
from server_tools import check_error, messages

ALL = ["/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/messages"]


def body_of(**fields):
    return {**messages(), "prompt": "x", "input": "x", **fields}


@pytest.mark.parametrize("path", [*ALL, "/v1/embeddings"])
async def test_a_models_name_is_bounded(run, engine, path):
    before = await run.state()
    response = await run.client.post(path, json=body_of(model="m" * 513, program_id="new"))
    check_error(response, 400, "model")
    assert len(response.content) < 500
    assert await run.state() == before
    assert engine.seen == []
    assert (await run.client.post(path, json=body_of(model="m" * 512))).status_code == 200


async def test_a_models_name_in_a_path_is_bounded(run, engine):
    check_error(await run.client.get("/v1/models/" + "m" * 513), 400, "model")
    assert engine.seen == []


@pytest.mark.parametrize("tool", ["t" * 257, "\x1b[31mred", "a\nb", "\x07", "\x9b", "\x7f"])
@pytest.mark.parametrize("kind", ["tool_started", "tool_finished"])
async def test_a_tools_name_is_bounded(run, kind, tool):
    before = await run.state()
    response = await run.client.post("/programs/bystander/events", json={"type": kind, "tool": tool})
    check_error(response, 400, "tool")
    assert await run.state() == before


@pytest.mark.parametrize("field", ["program_id", "parent_id", "group"])
@pytest.mark.parametrize("value", ["x" * 257, "\x1b[31mred"])
async def test_names_at_registration_are_bounded(run, field, value):
    before = await run.state()
    response = await run.client.post("/programs", json={"program_id": "new", field: value})
    check_error(response, 400, field)
    assert await run.state() == before


@pytest.mark.parametrize(
    ("priority", "status"),
    [(2**31, 400), (-(2**31) - 1, 400), (10**400, 400), (2**63, 400), (2**31 - 1, 201), (-(2**31), 201)],
)
async def test_priorities_are_bounded(run, priority, status):
    before = await run.state()
    response = await run.client.post("/programs", json={"program_id": "new", "priority": priority})
    assert response.status_code == status
    if status == 400:
        assert response.json()["error"]["param"] in {"priority", None}
        assert await run.state() == before


async def test_a_backends_url_is_bounded(run):
    before = await run.state()
    check_error(await run.client.post("/backends", json={"url": "http://x/" + "a" * 2048}), 400, "url")
    assert await run.state() == before


STEPS = [
    "/v1/../x",
    "/v1/x/..",
    "/v1/./x",
    "/v1/%2e%2e/x",
    "/v1/%2E./metrics",
    "/v1/a%2F..%2Fb",
    "/v1/..%5Cx",
    "/v1/..",
]


@pytest.mark.parametrize("path", STEPS)
@pytest.mark.parametrize("method", ["GET", "POST", "DELETE"])
async def test_steps_out_of_v1_are_not_forwarded(run, engine, raw, path, method):
    client = await raw(run.port)
    client.send(f"{method} {path} HTTP/1.1\r\nhost: x\r\ncontent-length: 0\r\n\r\n".encode())
    status, content = await client.answer()
    assert status == 400
    assert b'"code":"bad_request"' in content
    assert engine.seen == []


@pytest.mark.parametrize("path", ["/v1/a.b", "/v1/...", "/v1/a..b/c", "/v1/.hidden", "/v1/a%2Fb", "/v1//x"])
async def test_other_dots_are_forwarded_as_they_came(run, engine, raw, path):
    client = await raw(run.port)
    client.send(f"GET {path} HTTP/1.1\r\nhost: x\r\n\r\n".encode())
    await client.head()
    assert [request.path for request in engine.seen] == [path]


@pytest.mark.parametrize(
    ("line", "body", "status"),
    [
        ("POST /v1/chat/completions", b"no json", 400),
        ("POST /v1/chat/completions", b"{}", 400),
        ("POST /v1/chat/completions", b'{"messages": 5}', 400),
        ("POST /programs", b"{}", 400),
        ("POST /programs", b'{"program_id": "new", "nothing": 1}', 422),
        ("GET /programs/nobody", b"", 404),
        ("DELETE /programs/nobody", b"", 404),
        ("DELETE /backends/nobody", b"", 404),
        ("GET /nothing", b"", 404),
        ("GET /v1/../x", b"", 400),
    ],
)
async def test_what_can_never_succeed_says_so(run, raw, line, body, status):
    client = await raw(run.port)
    head = f"{line} HTTP/1.1\r\nhost: localhost\r\ncontent-length: {len(body)}\r\n\r\n".encode()
    client.send(head + body)
    answer = await client.head()
    assert answer.startswith(f"HTTP/1.1 {status} ".encode())
    assert b"x-should-retry: false\r\n" in answer
