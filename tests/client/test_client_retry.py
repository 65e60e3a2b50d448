"""When a request is sent again, and after how long."""

from __future__ import annotations

import re
from datetime import UTC, datetime

import httpx
import pytest
from client_fakes import broken, error, silent

from thunderagent_core.client import (
    BadRequestError,
    Client,
    RetryPolicy,
    ServerError,
    UnavailableError,
    UnexpectedAnswerError,
    UnreachableError,
)
from thunderagent_core.client.retry import retry_after_s

NOW = datetime(2030, 1, 1, 12, 0, 0, tzinfo=UTC)


def test_waits_double_up_to_a_limit():
    policy = RetryPolicy(max_retries=6, jitter=lambda: 0.0)
    assert [policy.delay_s(retry) for retry in range(1, 8)] == [0.5, 1.0, 2.0, 4.0, 8.0, 8.0, None]


def test_jitter_shortens_a_wait_by_half_at_most_and_never_a_retry_after():
    policy = RetryPolicy(jitter=lambda: 1.0)
    assert policy.delay_s(1) == 0.25
    assert policy.delay_s(1, 10.0) == 12.5
    assert RetryPolicy(jitter=lambda: 0.0).delay_s(1, 10.0) == 10.0


def test_too_long_a_retry_after_is_not_waited_out():
    assert RetryPolicy().delay_s(1, 61.0) is None


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("0", 0.0),
        ("1.5", 1.5),
        ("Tue, 01 Jan 2030 12:00:09 GMT", 9.0),
        ("Tue, 01 Jan 2030 11:00:00 GMT", 0.0),
        ("Tue, 01 Jan 2030 12:00:09 -0000", 9.0),
        ("-1", None),
        ("inf", None),
        ("nan", None),
        ("soon", None),
        ("", None),
        (None, None),
    ],
)
def test_reading_retry_after(value, seconds):
    assert retry_after_s(value, NOW) == seconds


def test_retry_after_is_waited_out(client, server, waits):
    server.then("GET /programs/p", error(503, retry_after="3"), error(429, retry_after="20"))
    assert client.get("p").program_id == "p"
    assert waits == [3.0, 20.0]


def test_giving_up_tells_when_to_come_back(client, server, waits):
    server.then("GET /programs/p", error(503, retry_after="600"))
    with pytest.raises(UnavailableError) as caught:
        client.get("p")
    assert (caught.value.retry_after_s, waits) == (600.0, [])


def test_retries_end(client, server, waits):
    server.then("GET /programs/p", *[error(500) for _ in range(9)])
    with pytest.raises(ServerError):
        client.get("p")
    assert waits == [0.5, 1.0, 2.0, 4.0]


def test_the_server_says_whether_to_retry(client, server, waits):
    server.then("GET /programs/p", error(400, x_should_retry="true"))
    client.get("p")
    server.then("GET /programs/p", error(503, x_should_retry="false", retry_after="1"))
    with pytest.raises(UnavailableError):
        client.get("p")
    assert waits == [0.5]


@pytest.mark.parametrize("status", [400, 401, 403, 404, 405, 409, 410, 413, 422])
def test_permanent_refusals_are_not_retried(client, server, waits, status):
    server.then("GET /programs/p", error(status))
    with pytest.raises(Exception, match=f"HTTP {status}"):
        client.get("p")
    assert waits == []


def test_a_lost_answer_is_asked_for_again_where_that_does_no_harm(client, server, waits):
    for line in ("POST /programs/release", "POST /programs/p/events", "POST /v1/chat/completions"):
        server.then(line, broken)
    client.release("p")
    client.idle("p")
    client.chat(messages=[])
    assert waits == [0.5, 0.5, 0.5]
    assert len(server.lines) == 6


def test_adding_a_backend_is_not_repeated_once_the_server_may_have_seen_it(client, server, waits):
    server.then("POST /backends", broken, error(500))
    with pytest.raises(UnreachableError):
        client.add_backend("http://e")
    with pytest.raises(ServerError):
        client.add_backend("http://e")
    assert (waits, len(server.lines)) == ([], 2)


def test_a_time_out_is_not_repeated(server, waits):
    server.then("GET /programs/p", silent)
    impatient = httpx.Timeout(60, read=0.2)
    with Client(server.url, timeout=impatient, sleep=waits.append) as client, pytest.raises(UnreachableError):
        client.get("p")
    server.wait_for(1)
    assert (waits, len(server.lines)) == ([], 1)


def test_a_refused_connection_is_tried_again(waits, closed_port):
    url = f"http://127.0.0.1:{closed_port}"
    with (
        Client(url, retry=RetryPolicy(jitter=lambda: 0.0), sleep=waits.append) as client,
        pytest.raises(UnreachableError, match=re.escape(url)) as caught,
    ):
        client.add_backend("http://e")
    assert waits == [0.5, 1.0, 2.0, 4.0]
    assert isinstance(caught.value.__cause__, httpx.ConnectError)


def test_probes_are_asked_once(client, server, waits):
    server.then("GET /ready", error(503, retry_after="5"))
    server.then("GET /health", broken)
    assert client.ready() is False
    with pytest.raises(UnreachableError):
        client.health()
    assert waits == []


def test_an_answer_that_is_no_json_is_told(client, server):
    async def page(responder):
        responder.send(200, [(b"content-type", b"text/html")], b"<html>")

    async def bad_gateway(responder):
        responder.send(400, [(b"content-type", b"text/html")], b"<html>\n  nginx  </html>")

    server.then("GET /programs/p", page, bad_gateway)
    with pytest.raises(UnexpectedAnswerError):
        client.get("p")
    with pytest.raises(BadRequestError, match="<html> nginx </html>"):
        client.get("p")
