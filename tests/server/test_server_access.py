"""Keys, web pages and names of hosts: who is let in, and what becomes of the key that let them in."""

from __future__ import annotations

import json

import pytest
from scripted_engine import JSON, whole
from server_tools import CHAT, check_error, messages

from thunderagent_core.server.access import Access

KEY = {"Authorization": "Bearer the-key"}


async def test_a_missing_key_is_told_before_the_body_is_read(engine, serve, raw):
    run = await serve(engine, api_keys=("the-key",))
    client = await raw(run.port)
    client.send(b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: 30000000\r\n\r\n" + bytes(100_000))
    head = await client.head()
    assert head.startswith(b"HTTP/1.1 401 ")
    assert b"connection: close" in head
    assert b"www-authenticate: Bearer" in head
    assert b"x-should-retry: false" in head
    assert json.loads(await client.rest())["error"]["code"] == "invalid_api_key"
    assert engine.seen == []


@pytest.mark.parametrize(
    ("sent", "forwarded"),
    [
        ({"Authorization": "Bearer the-key"}, {}),
        ({"Authorization": "bearer  the-key"}, {}),
        ({"X-API-Key": "the-key"}, {}),
        ({"Authorization": "Bearer the-key", "X-API-Key": "other-key"}, {}),
        ({"Authorization": "Bearer the-key", "X-API-Key": "of-the-engine"}, {"x-api-key": "of-the-engine"}),
        ({"Authorization": "Basic eDp5", "X-API-Key": "the-key"}, {"authorization": "Basic eDp5"}),
    ],
)
async def test_our_key_is_not_given_to_engines(engine, serve, sent, forwarded):
    run = await serve(engine, api_keys=("the-key", "other-key"))
    engine.reply = whole(200, b"{}", JSON)
    engine._asked_by_client = lambda request: request.header(b"x-request-id") is not None
    headers = {**sent, "X-Request-ID": "7", "X-Test": "1"}
    assert (await run.client.post(CHAT, json=messages(program_id="p"), headers=headers)).status_code == 200
    assert (await run.client.get("/v1/files/x", headers=headers)).status_code == 200
    for request in engine.seen:
        assert request.header(b"x-request-id") == b"7"
        credentials = {k.decode(): v.decode() for k, v in request.headers if k in {b"authorization", b"x-api-key"}}
        assert credentials == forwarded
    assert len(engine.seen) == 2


async def test_our_key_is_not_given_to_engines_that_list_their_models(engine, serve):
    run = await serve(engine, api_keys=("the-key",), poll_interval_s=600.0)
    asked = []

    async def reply(_engine, request, respond):
        asked.append([field for field in request.headers if field[0] in {b"authorization", b"x-api-key"}])
        respond.send(200, JSON, b'{"data": [{"id": "m"}]}')

    engine.reply = reply
    engine._asked_by_client = lambda request: True
    assert (await run.client.get("/v1/models", headers=KEY)).status_code == 200
    assert asked
    assert not any(asked)


async def test_without_keys_the_clients_authorization_is_the_engines(engine, serve):
    run = await serve(engine)
    await run.client.post(CHAT, json=messages(), headers=KEY)
    assert engine.seen[0].header(b"authorization") == b"Bearer the-key"


async def test_with_keys_the_engines_get_their_own(engine, serve):
    run = await serve(engine, api_keys=("the-key",), backend_api_key="engine-key")
    await run.client.post(CHAT, json=messages(), headers=KEY)
    assert engine.seen[0].header(b"authorization") == b"Bearer engine-key"


# Web pages


ELSEWHERE = [
    "https://evil.example",
    "http://10.0.0.1:3000",
    "null",
    "chrome-extension://x",
    "http://[",
    "http://x.local",
]
HERE = ["http://localhost:3000", "http://127.0.0.1:3000", "http://[::1]", "http://app.localhost", "HTTPS://LOCALHOST"]


@pytest.mark.parametrize("origin", ELSEWHERE)
async def test_pages_from_elsewhere_may_not_use_engines(run, engine, origin):
    before = await run.state()
    headers = {"Origin": origin, "Content-Type": "text/plain"}
    check_error(await run.client.post(CHAT, json=messages(), headers=headers), 403, None, code="browser_request")
    for method in ("POST", "DELETE"):
        response = await run.client.request(method, "/v1/files/x", headers=headers)
        check_error(response, 403, None, code="browser_request")
    assert engine.seen == []
    assert await run.state() == before
    assert (await run.client.get("/v1/files/x", headers=headers)).status_code == 200


@pytest.mark.parametrize("origin", HERE)
async def test_pages_of_this_machine_may_use_engines(run, origin):
    assert (await run.client.post(CHAT, json=messages(), headers={"Origin": origin})).status_code == 200


async def test_pages_with_a_key_may_use_engines(engine, serve):
    run = await serve(engine, api_keys=("the-key",))
    headers = {**KEY, "Origin": "https://app.example"}
    assert (await run.client.post(CHAT, json=messages(), headers=headers)).status_code == 200
    check_error(await run.client.post("/programs", json={"program_id": "p"}, headers=headers), 403, None)


# Names of hosts: a page may let its own name point to this machine, and then reads as if it were ours.

OURS = ["localhost", "localhost:8300", "LOCALHOST.", "127.0.0.1:8300", "[::1]:8300", "10.1.2.3", "a.localhost:1", ""]
FOREIGN = ["evil.example", "evil.example:8300", "localhost.evil.example", "127.0.0.1.evil.example:80", "2130706433x"]
STATE = ["/programs", "/programs/bystander", "/backends", "/metrics", "/scheduling", "/events"]


@pytest.mark.parametrize("host", FOREIGN)
async def test_foreign_names_may_not_read_or_change_our_state(run, host):
    before = await run.state()
    for path in STATE:
        response = await run.client.get(path, headers={"Host": host})
        check_error(response, 403, None, code="foreign_host")
    for path, body in (("/programs", {"program_id": "new"}), ("/backends", {"url": "http://127.0.0.1:1"})):
        check_error(await run.client.post(path, json=body, headers={"Host": host}), 403, None, code="foreign_host")
    assert await run.state() == before


@pytest.mark.parametrize("host", FOREIGN)
async def test_engines_and_probes_may_be_reached_under_any_name(run, host):
    assert (await run.client.get("/health", headers={"Host": host})).status_code == 200
    assert (await run.client.get("/ready", headers={"Host": host})).status_code == 200
    assert (await run.client.post(CHAT, json=messages(), headers={"Host": host})).status_code == 200


@pytest.mark.parametrize("host", OURS)
async def test_our_own_names_and_addresses(run, raw, host):
    client = await raw(run.port)
    client.send(f"GET /programs HTTP/1.1\r\nhost: {host}\r\n\r\n".encode())
    assert (await client.head()).startswith(b"HTTP/1.1 200 ")


async def test_with_keys_any_name_is_right(engine, serve):
    run = await serve(engine, api_keys=("the-key",))
    assert (await run.client.get("/programs", headers={**KEY, "Host": "gateway.example"})).status_code == 200


@pytest.mark.parametrize("bound", ["0.0.0.0", "::", "10.0.0.1", "gpu3"])
def test_a_server_for_others_knows_not_all_its_names(bound):
    access = Access((), bound)
    assert access._private is False


@pytest.mark.parametrize("bound", ["127.0.0.1", "127.1.2.3", "::1", "localhost"])
def test_a_server_for_this_machine_alone(bound):
    assert Access((), bound)._private is True
    assert Access(("key",), bound)._private is False
