"""What an engine's answers do to programs and clients, and what is never sent to an engine twice."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime, formatdate

import pytest
from scripted_engine import JSON, answer, die, whole
from server_tools import RARELY

from thunderagent_core.server.headers import answer_headers


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/responses", {"model": "m", "input": "x", "store": True, "program_id": "p"}),
        ("/v1/responses", {"model": "m", "input": "x", "background": True}),
        ("/v1/files", {"purpose": "batch"}),
    ],
)
async def test_what_may_have_had_an_effect_is_sent_once_though_a_connection_was_kept(engine, serve, path, body):
    run = await serve(engine, **RARELY)
    for _ in range(2):
        assert (await run.client.post(path, json=body)).status_code == 200
    engine.reply = die
    broken = await run.client.post(path, json=body)
    assert (broken.status_code, broken.json()["error"]["code"]) == (502, "upstream_broke_off")
    assert len(engine.seen) == 3


@pytest.mark.parametrize("status", [401, 403, 408, 409, 425, 429])
async def test_an_error_that_may_pass_does_not_end_a_program(engine, serve, status):
    engine.reply = whole(status, b'{"error": "not now"}')
    run = await serve(engine)
    assert (await run.chat("p")).status_code == status
    await run.idle()
    assert (await run.program("p"))["steps"] == 0
    assert "p" not in run.runtime.ended


@pytest.mark.parametrize("status", [400, 404, 413, 422])
async def test_bad_input_leaves_no_program(engine, serve, status):
    engine.reply = whole(status, b'{"error": "never"}')
    run = await serve(engine)
    assert (await run.chat("p")).status_code == status
    await run.idle()
    assert "p" not in run.scheduler.programs


@pytest.mark.parametrize("status", [400, 401, 404, 429])
async def test_an_error_of_the_clients_making_is_no_reason_to_suspect_the_engine(engine, serve, status):
    engine.reply = whole(status, b"{}")
    run = await serve(engine, **RARELY)
    await run.chat("p")
    await run.idle()
    assert not run.server.fleet.engines[engine.id].wake.is_set()


@pytest.mark.parametrize(
    ("sent", "passed"),
    [
        ("120", "30"),
        ("31.5", "30"),
        ("30", "30"),
        ("7", "7"),
        ("0", "0"),
        ("soon", "soon"),
        ("-1", "-1"),
        ("nan", "nan"),
    ],
)
@pytest.mark.parametrize("status", [429, 503])
async def test_no_engine_keeps_a_client_away_for_long(engine, serve, status, sent, passed):
    engine.reply = whole(status, b'{"error": "not now"}', [*JSON, (b"retry-after", sent.encode())])
    run = await serve(engine)
    response = await run.chat("p")
    assert (response.status_code, response.content) == (status, b'{"error": "not now"}')
    assert response.headers["retry-after"] == passed


def test_dates_count_as_well():
    later, soon, past = formatdate(time.time() + 3600, usegmt=True), formatdate(time.time() + 2, usegmt=True), "Tue, 01"
    for sent, passed in ((later, b"30"), (soon, soon.encode()), (past, past.encode())):
        assert answer_headers(503, [(b"retry-after", sent.encode())]) == [(b"retry-after", passed)]
    unzoned = format_datetime(datetime.now(UTC).replace(tzinfo=None) + timedelta(hours=1))
    assert answer_headers(429, [(b"retry-after", unzoned.encode())]) == [(b"retry-after", b"30")]
    assert answer_headers(200, [(b"retry-after", b"120"), (b"date", b"x")]) == [(b"retry-after", b"120")]


async def test_a_list_of_models_that_is_refused_keeps_nobody_away_either(engine, serve):
    engine.reply = whole(429, b"{}", [*JSON, (b"retry-after", b"600")])
    engine._asked_by_client = lambda request: request.header(b"authorization") is not None
    run = await serve(engine)
    response = await run.client.get("/v1/models", headers={"Authorization": "Bearer x"})
    assert (response.status_code, response.headers["retry-after"]) == (429, "30")
    engine.reply = answer
