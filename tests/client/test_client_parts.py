"""Small parts: what the client sends and reads, what it imports, how it cuts a stream."""

from __future__ import annotations

import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import httpx
import pytest
from client_fakes import reply, stream, view
from hypothesis import given
from hypothesis import strategies as st

from thunderagent_core.client import AuthenticationError, Client, StreamInterruptedError
from thunderagent_core.client.errors import api_error
from thunderagent_core.client.sse import SseEvent, SseParser

RECORDED = Path(__file__).parents[1] / "recorded" / "vllm-0.32"


def test_the_client_needs_nothing_of_the_server():
    code = (
        "import sys; import thunderagent_core.client; "
        "print(sorted({'.'.join(m.split('.')[:2]) for m in sys.modules if m.startswith('thunderagent_core.')}))"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.strip() == "['thunderagent_core.client']"


@pytest.mark.parametrize("suffix", ["", "/", "/v1", "/v1/"])
def test_the_address_that_openai_clients_take_is_taken_too(server, suffix):
    with Client(server.url + suffix) as client:
        client.health()
        assert client.base_url == server.url


@pytest.mark.parametrize("url", ["", "127.0.0.1:8300", "ftp://host", "http://"])
def test_what_is_no_address_is_refused(url):
    with pytest.raises(ValueError, match="not an http"):
        Client(url)


def test_the_key_is_sent_and_not_shown(server):
    with Client(server.url, "s3cret") as client:
        client.health()
        assert "s3cret" not in repr(client._session)
    assert server.seen[0].headers["authorization"] == "Bearer s3cret"


def test_a_given_http_client_is_used_and_left_open(server):
    with httpx.Client(headers={"x-team": "a"}) as http:
        with Client(server.url, http_client=http) as client:
            client.health()
        assert not http.is_closed
    assert server.seen[0].headers["x-team"] == "a"


def test_views_are_typed_and_take_what_they_do_not_know(client, server):
    history = [{"s_ago": 1.5, "status": "paused", "reason": "demand exceeds capacity"}]
    full = view("p", prompt_tokens=100, cached_tokens=80, waiting_s=0, history=history, something_new={"a": 1})
    server.then("GET /programs/p", reply(200, full))
    seen = client.get("p")
    assert (seen.hit_rate, seen.history[0].reason) == (0.8, "demand exceeds capacity")
    backend = {"id": "e-1", "url": "http://e:1", "healthy": True, "capacity_tokens": 9, "engine": {"kv_usage": 0.5}}
    server.then("GET /backends", reply(200, {"backends": [backend]}))
    (listed,) = client.backends()
    assert (listed.engine.kv_usage, listed.draining) == (0.5, False)


def test_backends_are_added_and_drained(client, server):
    server.then("POST /backends", reply(201, {"id": "e-1", "url": "http://e:1"}))
    server.then("DELETE /backends/e-1", reply(202, {"id": "e-1", "draining": True}))
    assert client.add_backend("http://e:1").id == "e-1"
    client.drain_backend("e-1")
    assert server.seen[0].body == {"url": "http://e:1"}


@pytest.mark.parametrize("name", ["chat_stream", "completion_stream_usage", "messages_stream", "responses_stream"])
def test_streams_of_a_real_engine_are_read_whole_and_never_cut_short(client, server, name):
    recorded = (RECORDED / f"{name}.sse").read_bytes()
    server.then("POST /v1/x", stream(recorded, end=b""), stream(recorded[: len(recorded) // 2], end=b""))
    assert len(list(client.generate("/v1/x", {}, stream=True))) == recorded.count(b"data: {")
    with pytest.raises(StreamInterruptedError):
        list(client.generate("/v1/x", {}, stream=True))


def test_decisions_can_be_followed(client, server):
    decision = {"now": 1.0, "type": "Restore", "program_id": "p", "backend_id": "e", "reason": "fits"}
    server.then("GET /events", stream(b": hello\n\n", decision, end=b""))
    with client.events() as decisions:
        assert list(decisions) == [decision]


def test_leaving_a_stream_early_closes_it(client, server):
    server.then("GET /events", stream({"n": 1}, {"n": 2}))
    with client.events() as decisions:
        assert next(decisions) == {"n": 1}
    decisions.close()
    with pytest.raises((StopIteration, StreamInterruptedError)):
        next(decisions), next(decisions)


def test_errors_without_openai_fields():
    error = api_error(401, b'{"message": "who are you", "code": 401}')
    assert isinstance(error, AuthenticationError)
    assert (error.message, error.code, error.type) == ("who are you", 401, None)
    assert str(api_error(500, b"")) == "an error without a text (HTTP 500)"
    assert api_error(500, b'"\xff"').message.startswith('"')


EVENTS = (
    b'event: a\r\ndata: {"x":\r\ndata: 1}\r\n\r\n: comment\nid: 7\nretry: 5\ndata:\n\ndata: \xc3\xa9\xe2\x80\xa8\n\n'
)


@given(st.lists(st.integers(0, len(EVENTS)), max_size=8))
def test_a_stream_may_be_cut_anywhere(cuts):
    parser = SseParser()
    edges = [0, *sorted(cuts), len(EVENTS)]
    pieces = [EVENTS[start:end] for start, end in pairwise(edges)]
    events = [event for piece in pieces for event in parser.feed(piece)]
    assert events == [SseEvent("a", '{"x":\n1}'), SseEvent("message", ""), SseEvent("message", "é\u2028")]
