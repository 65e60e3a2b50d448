"""Bad input to our own routes, and requests that are not quite HTTP: answered, and nothing is changed."""

from __future__ import annotations

import json

import pytest
from server_tools import CHAT, check_error


@pytest.mark.parametrize(
    ("path", "body", "field", "nearest"),
    [
        ("/programs", {"program_id": "new", "prority": 1}, "prority", "priority"),
        ("/programs", {"programid": "new"}, "programid", "program_id"),
        ("/programs", {"program_id": "new", "parent": "p"}, "parent", "parent_id"),
        ("/programs/release", {"program_id": "bystander", "programs_id": "x"}, "programs_id", "program_id"),
        ("/programs/bystander/events", {"type": "tool_started", "tools": "bash"}, "tools", "tool"),
        ("/backends", {"uri": "http://127.0.0.1:1"}, "uri", "url"),
        ("/programs", {"zzz" * 100_000: 1}, None, None),
    ],
)
async def test_unknown_fields_of_ours(run, path, body, field, nearest):
    before = await run.state()
    response = await run.client.post(path, json=body)
    assert response.status_code == 422
    assert len(response.content) < 1000
    if field is not None:
        check_error(response, 422, field, code="unknown_field")
        assert f"`{nearest}`" in response.json()["error"]["message"]
    assert await run.state() == before


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        ("/programs", {}, "program_id"),
        ("/programs", {"program_id": "new", "priority": "high"}, "priority"),
        ("/programs", {"program_id": "new", "priority": 1.5}, "priority"),
        ("/programs", {"program_id": "new", "group": 7}, "group"),
        ("/programs", {"program_id": "new", "group": ""}, "group"),
        ("/programs", {"program_id": "new", "parent_id": "a\nb"}, "parent_id"),
        ("/programs", [], None),
        ("/programs/release", {}, "program_id"),
        ("/programs/bystander/events", {}, "type"),
        ("/programs/bystander/events", {"type": "tool_finish"}, "type"),
        ("/programs/bystander/events", {"type": "tool_started"}, "tool"),
        ("/programs/bystander/events", {"type": "tool_started", "tool": ""}, "tool"),
        ("/programs/bystander/events", {"type": 1}, "type"),
        ("/backends", {}, "url"),
        ("/backends", {"url": 5}, "url"),
        ("/backends", {"url": "ftp://127.0.0.1"}, "url"),
        ("/backends", {"url": "127.0.0.1:8000"}, "url"),
        ("/backends", {"url": "http://127.0.0.1:8000/v1"}, "url"),
        ("/backends", {"url": "http://127.0.0.1:99999"}, "url"),
        ("/backends", {"url": "http://127.0.0.1:0"}, "url"),
        ("/backends", {"url": "http://user@127.0.0.1:8000"}, "url"),
        ("/backends", {"url": "http://127.0.0.1:8000?a=b"}, "url"),
        ("/backends", {"url": "http://ü:8000"}, "url"),
    ],
)
async def test_wrong_values_on_our_own_routes(run, path, body, param):
    before = await run.state()
    check_error(await run.client.post(path, json=body), 400, param)
    assert await run.state() == before


async def test_what_is_not_there(run):
    before = await run.state()
    check_error(await run.client.get("/programs/nobody"), 404, "program_id", code="program_not_found")
    check_error(await run.client.get("/programs/ended"), 404, "program_id", code="program_not_found")
    check_error(await run.client.delete("/programs/nobody"), 404, "program_id")
    check_error(await run.release("nobody"), 404, "program_id")
    body = {"type": "idle"}
    check_error(await run.client.post("/programs/nobody/events", json=body), 404, "program_id")
    check_error(await run.client.delete("/backends/nobody"), 404, "backend_id", code="backend_not_found")
    for path in ("/", "/nothing", "/programs/a/b", "/programs/a/events/b", "/backends/a/b", "/v1", "//programs"):
        check_error(await run.client.get(path), 404, None, code="route_not_found")
    assert await run.state() == before


async def test_releasing_twice_is_no_error(run):
    before = await run.state()
    for _ in range(2):
        response = await run.release("ended")
        assert (response.status_code, response.json()) == (200, {"program_id": "ended", "released": False})
        assert (await run.client.delete("/programs/ended")).json()["released"] is False
    assert await run.state() == before


async def test_another_specification_for_the_same_program(run):
    before = await run.state()
    same = await run.client.post("/programs", json={"program_id": "registered", "group": "g"})
    assert same.status_code == 200
    for other in ({"group": "other"}, {"group": "g", "priority": 1}, {"group": "g", "parent_id": "x"}, {}):
        response = await run.client.post("/programs", json={"program_id": "registered", **other})
        check_error(response, 409, "program_id", code="program_conflict")
        assert response.headers["x-should-retry"] == "false"
    assert await run.state() == before


async def test_wrong_methods(run):
    before = await run.state()
    for method, path, allowed in (
        ("GET", CHAT, "POST"),
        ("PUT", "/v1/messages", "POST"),
        ("POST", "/health", "GET"),
        ("DELETE", "/metrics", "GET"),
        ("PUT", "/programs", "GET, POST"),
        ("POST", "/programs/bystander", "GET, DELETE"),
        ("GET", "/programs/bystander/events", "POST"),
        ("GET", "/backends/x", "DELETE"),
        ("HEAD", "/events", "GET"),
    ):
        response = await run.client.request(method, path)
        assert response.status_code == 405
        assert response.headers["allow"] == allowed
        if method != "HEAD":
            check_error(response, 405, None, code="method_not_allowed")
    assert await run.state() == before


async def test_pages_in_a_browser_may_change_nothing(run):
    before = await run.state()
    headers = {"Origin": "https://evil.example", "Content-Type": "text/plain"}
    for method, path, body in (
        ("POST", "/backends", {"url": "http://127.0.0.1:1"}),
        ("POST", "/programs", {"program_id": "new"}),
        ("POST", "/programs/release", {"program_id": "bystander"}),
        ("DELETE", "/programs/bystander", None),
    ):
        response = await run.client.request(method, path, json=body, headers=headers)
        check_error(response, 403, None, code="browser_request")
    assert (await run.client.get("/programs", headers=headers)).status_code == 200
    assert await run.state() == before


async def test_requests_that_are_not_http(run, raw):
    before = await run.state()
    for data, status in (
        (b"nonsense\r\n\r\n", b"400"),
        (b"GET /v1/\xc3\xbc HTTP/1.1\r\nhost: x\r\n\r\n", b"400"),
        (b"GET / HTTP/1.1\r\n\r\n", b"400"),
        (b"POST / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: gzip\r\n\r\n", b"501"),
        (b"GET /x HTTP/1.1\r\nhost: x\r\nlong: " + b"x" * 70_000 + b"\r\n\r\n", b"431"),
    ):
        client = await raw(run.port)
        client.send(data)
        head = await client.head()
        assert head.startswith(b"HTTP/1.1 " + status)
        assert b"x-should-retry: false" in head
        assert set(json.loads(await client.rest())["error"]) == {"message", "type", "param", "code"}
    for line in (b"M-SEARCH /v1/x", b'GET /v1/a"{}|^`b', b"OPTIONS *", b"GET http://other/v1/models"):
        client = await raw(run.port)
        client.send(line + b" HTTP/1.1\r\nhost: x\r\n\r\n")
        assert not (await client.head()).startswith(b"HTTP/1.1 5"), line
    assert await run.state() == before
