"""Our own routes: programs and what they report, models, pass-through, keys."""

from __future__ import annotations

import asyncio
import json

import pytest
from scripted_engine import JSON, Gate, whole
from server_tools import CHAT, messages, soon, text_of


async def test_programs_are_registered_and_shown(engine, serve):
    run = await serve(engine)
    body = {"program_id": "p", "parent_id": "root", "group": "batch", "priority": -3}
    first = await run.client.post("/programs", json=body)
    assert first.status_code == 201
    view = first.json()
    assert {key: view[key] for key in body} == body
    assert (view["status"], view["phase"], view["backend"], view["steps"]) == ("paused", "acting", None, 0)
    again = await run.client.post("/programs", json=body)
    assert again.status_code == 200
    assert again.json()["program_id"] == "p"
    await run.chat("p")
    await run.chat("unannounced")
    await run.idle()
    view = await run.program("p")
    assert (view["status"], view["phase"], view["backend"], view["steps"]) == ("active", "acting", engine.id, 1)
    assert view["history"][-1]["status"] == "active"
    assert view["history"][-1]["reason"] == "new program"
    listed = await run.get("/programs")
    assert [p["program_id"] for p in listed["programs"]] == ["p", "unannounced"]
    assert listed["waiting"] == 0
    assert set(listed["programs"][0]) == set(view) - {"environments"}
    adopted = await run.client.post("/programs", json={"program_id": "unannounced", "group": "late"})
    assert (adopted.status_code, adopted.json()["group"], adopted.json()["steps"]) == (201, "late", 1)


async def test_a_program_can_come_back_after_its_end(engine, serve):
    run = await serve(engine)
    for _ in range(2):
        assert (await run.chat("p")).status_code == 200
        await run.idle()
        assert (await run.program("p"))["steps"] == 1
        assert (await run.release("p")).json() == {"program_id": "p", "released": True}
    assert list(run.runtime.ended) == ["p"]


async def test_many_programs_are_listed_without_keeping_the_others_waiting(engine, serve):
    from thunderagent_core.scheduling.events import ProgramRegistered, ProgramReleased

    run = await serve(engine, history_programs=10)
    for number in range(3000):
        run.runtime.post(ProgramRegistered(f"p{number}"))
    listing = asyncio.create_task(run.get("/programs"))
    while not listing.done():
        await asyncio.sleep(0)
        if "p2999" in run.scheduler.programs:
            run.runtime.post(ProgramReleased("p2999"))
    names = [p["program_id"] for p in (await listing)["programs"]]
    assert names == [f"p{number}" for number in range(2999)]


async def test_events_of_adapters(engine, serve):
    run = await serve(engine)
    await run.chat("p")
    await run.idle()

    async def report(**event):
        response = await run.client.post("/programs/p/events", json=event)
        assert response.status_code == 202
        return response.json()

    assert (await report(type="tool_started", tool="bash"))["tool"] == "bash"
    assert (await report(type="tool_finished", tool="other"))["tool"] == "bash"
    assert (await report(type="tool_finished", tool="bash"))["tool"] is None
    interrupted = await report(type="interrupted")
    assert (interrupted["interrupted"], interrupted["status"]) == (True, "paused")
    assert (await report(type="resumed"))["interrupted"] is False
    await run.chat("p")
    await run.idle()
    assert (await report(type="idle"))["status"] == "paused"


async def test_models_are_the_union_of_the_healthy_engines(engine_factory, serve):
    engines = [await engine_factory(models=names) for names in (("a", "b"), ("b", "c"), ("down",))]
    await engines[2].stop()
    run = await serve(*engines)
    listed = await run.get("/v1/models")
    assert listed["object"] == "list"
    assert [model["id"] for model in listed["data"]] == ["a", "b", "c"]
    assert (await run.client.head("/v1/models")).status_code == 200
    assert (await run.client.post("/v1/models")).status_code == 200, "the engine's affair"


async def test_models_with_the_clients_own_key(engine, serve):
    """Engines that want a key get the client's, and their refusal is passed on."""

    async def reply(_engine, request, respond):
        if request.header(b"authorization") == b"Bearer right":
            respond.send(200, JSON, b'{"object":"list","data":[{"id":"secret"},{"id":5},"x"]}')
        else:
            respond.send(401, JSON, b'{"error":"Unauthorized"}')

    engine.reply = reply
    run = await serve(engine)
    # The engine answers pollers by itself; what carries this key is the client's.
    engine._asked_by_client = lambda request: request.header(b"authorization") is not None
    right = await run.client.get("/v1/models", headers={"Authorization": "Bearer right"})
    assert [model["id"] for model in right.json()["data"]] == ["secret"]
    wrong = await run.client.get("/v1/models", headers={"Authorization": "Bearer wrong"})
    assert (wrong.status_code, wrong.json()) == (401, {"error": "Unauthorized"})


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"])
async def test_other_paths_are_passed_through_with_any_method(engine, serve, method):
    engine.reply = whole(418, b"\x00\xffbinary", [(b"content-type", b"application/octet-stream"), (b"x-a", b"1")])
    run = await serve(engine)
    content = b'{"program_id":"not looked at","model":"m"}' if method in {"POST", "PUT", "PATCH"} else b""
    response = await run.client.request(method, "/v1/anything/at%2Fall?x=1&y=%C3%BC", content=content)
    assert (response.status_code, response.content) == (418, b"\x00\xffbinary")
    assert response.headers["content-length"] == "8"
    assert response.headers["x-a"] == "1"
    seen = engine.seen[0]
    assert (seen.method, seen.path, seen.query) == (method, "/v1/anything/at%2Fall", "x=1&y=%C3%BC")
    assert seen.body == content
    assert run.scheduler.programs == {}


async def test_head_requests(engine, serve, raw):
    engine.reply = whole(200, b"12345")
    run = await serve(engine)
    passed = await run.client.head("/v1/files/x")
    assert (passed.status_code, passed.headers["content-length"]) == (200, "5")
    assert engine.seen[0].method == "HEAD"
    for path in ("/health", "/ready", "/programs", "/backends", "/metrics", "/scheduling"):
        assert (await run.client.head(path)).status_code == 200
    assert (await run.client.head("/programs/nobody")).status_code == 404
    client = await raw(run.port)
    client.send(b"HEAD /programs HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n")
    await client.head()
    assert await client.rest() == b"", "no body follows"


async def test_passed_through_requests_go_where_their_model_is(engine_factory, serve):
    chat = await engine_factory(models=("chat",))
    embedding = await engine_factory(models=("embed/large",))
    run = await serve(chat, embedding)
    for _ in range(3):
        await run.client.post("/v1/embeddings", json={"model": "embed/large", "input": "x"})
        await run.client.get("/v1/models/embed%2Flarge")
    assert (len(chat.seen), len(embedding.seen)) == (0, 6)
    chat.reply = embedding.reply = whole(200, b"{}")
    for content in (b"{broken", b'{"model": 5}', b"", b"--multipart", b'{"model": "nobody"}'):
        assert (await run.client.post("/v1/embeddings", content=content)).status_code == 200


async def test_a_large_body_passes_both_ways(engine, serve):
    engine.reply = lambda _engine, request, respond: whole(200, request.body)(_engine, request, respond)
    run = await serve(engine)
    content = bytes(range(256)) * 40_000
    response = await run.client.post("/v1/files", content=content)
    assert response.content == content


async def test_keys(engine, serve):
    run = await serve(engine, api_keys=("first-key", "second-key"))
    for headers in (
        {"Authorization": "Bearer first-key"},
        {"Authorization": "bearer second-key"},
        {"X-API-Key": "first-key"},
        {"Authorization": "Basic eDp5", "X-API-Key": "second-key"},
    ):
        assert (await run.client.post(CHAT, json=messages(), headers=headers)).status_code == 200
        assert (await run.client.get("/programs", headers=headers)).status_code == 200
    asked = len(engine.seen)
    for headers in (
        {},
        {"Authorization": "Bearer wrong"},
        {"Authorization": "Bearer first-key-and-more"},
        {"Authorization": "Bearer first-ke"},
        {"Authorization": "Bearer"},
        {"Authorization": "first-key"},
        {"X-API-Key": ""},
        {"Authorization": "Bearer wrong", "X-API-Key": "first-key"},
    ):
        for method, path in (
            ("POST", CHAT),
            ("GET", "/programs"),
            ("GET", "/metrics"),
            ("GET", "/events"),
            ("GET", "/x"),
        ):
            response = await run.client.request(method, path, headers=headers)
            assert response.status_code == 401
            assert response.headers["www-authenticate"] == "Bearer"
            assert response.headers["x-should-retry"] == "false"
            assert response.json()["error"]["code"] == "invalid_api_key"
    odd = await run.client.get("/programs", headers=[(b"Authorization", b"Bearer \xc3\xbc")])
    assert odd.status_code == 401
    assert (await run.client.get("/health")).status_code == 200
    assert (await run.client.get("/ready")).status_code == 200
    assert len(engine.seen) == asked
    assert run.scheduler.programs == {}


async def test_keys_are_compared_in_constant_time(engine, serve, monkeypatch):
    import hmac

    run = await serve(engine, api_keys=("first-key", "second-key"))
    compared = []
    plain = hmac.compare_digest
    monkeypatch.setattr(hmac, "compare_digest", lambda a, b: compared.append((a, b)) or plain(a, b))
    await run.client.get("/programs", headers={"Authorization": "Bearer first-key"})
    assert compared == [(b"first-key", b"first-key"), (b"first-key", b"second-key")]


async def test_what_is_scheduled_and_how(engine, serve):
    run = await serve(engine, policy="cap", cap_programs=3, max_wait_s=17.0)
    shown = await run.get("/scheduling")
    assert shown["policy"] == "cap"
    assert (shown["settings"]["cap_programs"], shown["settings"]["max_wait_s"]) == (3, 17.0)
    assert (shown["programs"], shown["waiting"], shown["open_requests"]) == (0, 0, 0)


@pytest.mark.parametrize("policy", ["paper", "cap", "ttl", "sticky", "passthrough"])
async def test_every_policy_serves(engine_factory, serve, policy):
    engines = [await engine_factory(capacity_tokens=3000) for _ in range(2)]
    run = await serve(
        *engines, policy=policy, cap_programs=2, ttl_s=0.05, audited={"tracked_go_home": policy != "passthrough"}
    )

    async def agent(name: str) -> set[int]:
        statuses = {(await run.chat(name, text_of(100 * turn))).status_code for turn in range(1, 4)}
        await run.release(name)
        return statuses

    outcomes = await asyncio.gather(*(agent(f"p{number}") for number in range(12)))
    assert set().union(*outcomes) == {200}


async def test_views_of_a_backend(engine, serve):
    engine.reply = gate = Gate()
    run = await serve(engine)
    call = run.asking("p", text_of(500))
    await soon(lambda: gate.arrived == 1)
    [view] = (await run.get("/backends"))["backends"]
    assert (view["kind"], view["models"], view["capacity_tokens"]) == ("vllm", ["m"], 16384)
    assert (view["programs"], view["in_flight"]) == (1, 1)
    assert 500 <= view["demand_tokens"] < 520
    await soon(lambda: run.server.fleet.engines[engine.id].sample.running == 1)
    assert json.loads(json.dumps(view["engine"]))["kv_usage"] == 0.25
    gate.open()
    await call
