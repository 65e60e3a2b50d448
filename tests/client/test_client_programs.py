"""``with client.program(…)``: registered on entry, released on exit, whatever happens in between."""

from __future__ import annotations

import logging

import httpx
import pytest
from client_fakes import broken, error, silent, stream

from thunderagent_core.client import (
    BadRequestError,
    Client,
    ConflictError,
    NotFoundError,
    RetryPolicy,
    ServerError,
    StreamInterruptedError,
    UnreachableError,
)

BOTH_ENDS = ["POST /programs", "POST /programs/release"]


def test_a_program_lives_as_long_as_its_block(client, server):
    with client.program("job-7", parent_id="boss", group="g", priority=-1) as program:
        assert server.lines == BOTH_ENDS[:1]
        assert program.id == "job-7"
    assert server.lines == BOTH_ENDS
    assert server.seen[0].body == {"program_id": "job-7", "parent_id": "boss", "group": "g", "priority": -1}
    assert server.seen[1].body == {"program_id": "job-7"}


def test_a_program_without_an_id_gets_one_of_its_own(client):
    assert client.program().id != client.program().id


@pytest.mark.parametrize("kind", [ValueError, KeyboardInterrupt, SystemExit, GeneratorExit])
def test_released_when_the_block_raises(client, server, kind):
    with pytest.raises(kind), client.program("p"):
        raise kind
    assert server.lines == BOTH_ENDS


@pytest.mark.parametrize("failure", [error(400), broken, error(503, retry_after="30")])
def test_a_failing_release_is_logged_and_hides_nothing(client, server, caplog, failure):
    server.then("POST /programs/release", failure, failure)
    with pytest.raises(ZeroDivisionError), client.program("p"):
        _ = 1 / 0
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert "could not release p" in caplog.text


def test_a_failing_release_is_no_error_of_the_block(client, server, caplog):
    server.then("POST /programs/release", error(400))
    with client.program("p"):
        pass
    assert "could not release p" in caplog.text


def test_a_program_that_is_gone_needs_no_release(client, server, caplog):
    server.then("POST /programs/release", error(404))
    with client.program("p"):
        pass
    assert not caplog.records


def test_a_closed_client_does_not_hide_why_the_block_ended(server, caplog):
    client = Client(server.url)
    with pytest.raises(ZeroDivisionError), client.program("p"), client:
        _ = 1 / 0
    assert "could not release p" in caplog.text


def test_a_refused_registration_leaves_nothing_to_release(client, server):
    server.then("POST /programs", error(409, code="program_conflict", x_should_retry="false"))
    with pytest.raises(ConflictError) as caught, client.program("p"):
        pytest.fail("the block must not run")
    assert caught.value.code == "program_conflict"
    assert server.lines == ["POST /programs"]


def test_an_interrupted_registration_is_undone(server):
    def interrupt(seconds):
        raise KeyboardInterrupt

    server.then("POST /programs", error(503))
    with Client(server.url, sleep=interrupt) as client, pytest.raises(KeyboardInterrupt), client.program("p"):
        pytest.fail("the block must not run")
    assert server.lines == BOTH_ENDS


def test_leaving_a_block_is_not_held_up_by_a_server_in_trouble(client, server, waits):
    server.then("POST /programs/release", *[error(503) for _ in range(9)])
    with client.program("p"):
        pass
    assert server.lines.count("POST /programs/release") == 2
    assert waits == [0.5]


def test_requests_carry_the_id_in_the_body(client, server):
    with client.program("job-7") as program:
        program.chat(messages=[{"role": "user", "content": "hi"}], model="m", max_tokens=3, temperature=None)
        program.completions(prompt="hi", model="m")
    chat, completion = server.seen[1:3]
    messages = [{"role": "user", "content": "hi"}]
    assert chat.body == {"program_id": "job-7", "messages": messages, "model": "m", "max_tokens": 3}
    assert (completion.path, completion.body["prompt"]) == ("/v1/completions", "hi")
    assert program.extra_body == {"program_id": "job-7"}


def test_a_generation_says_how_long_it_will_wait(client, server):
    client.chat(messages=[])
    client.programs()
    assert server.seen[0].headers["x-stainless-read-timeout"] == "3600"
    assert "x-stainless-read-timeout" not in server.seen[1].headers


def test_streams_yield_chunks(client, server):
    text = "line ends inside:\u2028\u0085"
    server.then("POST /v1/chat/completions", stream({"n": 1}, b": a comment\n\n", {"n": text}))
    with client.program("p") as program:
        chunks = list(program.chat(messages=[], stream=True))
    assert chunks == [{"n": 1}, {"n": text}]
    assert server.seen[1].body["stream"] is True


def test_an_error_in_a_stream_is_raised(client, server):
    server.then(
        "POST /v1/chat/completions", stream({"n": 1}, {"error": {"message": "engine died", "code": "x"}}, end=b"")
    )
    chunks = client.chat(messages=[], stream=True)
    assert next(chunks) == {"n": 1}
    with pytest.raises(ServerError, match="engine died") as caught:
        next(chunks)
    assert caught.value.code == "x"


def test_a_stream_that_ends_early_is_no_whole_answer(client, server):
    server.then("POST /v1/completions", stream({"n": 1}, end=b""))
    chunks = client.completions(prompt="hi", stream=True)
    assert next(chunks) == {"n": 1}
    with pytest.raises(StreamInterruptedError):
        next(chunks)


def test_an_error_before_a_stream_is_a_plain_error(client, server):
    server.then("POST /v1/chat/completions", error(400, "too large", "context_too_large", "messages"))
    with pytest.raises(BadRequestError) as caught:
        client.chat(messages=[], stream=True)
    assert (caught.value.status, caught.value.param, caught.value.code) == (400, "messages", "context_too_large")


def test_tools_are_reported_around_their_block(client, server):
    with client.program("p") as program, pytest.raises(ValueError, match="tool"), program.tool("bash"):
        raise ValueError("tool")
    events = [seen.body for seen in server.seen if seen.path == "/programs/p/events"]
    assert events == [{"type": "tool_started", "tool": "bash"}, {"type": "tool_finished", "tool": "bash"}]


def test_a_tool_does_not_fail_for_want_of_a_report(client, server, caplog):
    server.then("POST /programs/p/events", error(404), error(404))
    with client.program("p") as program, program.tool("bash"):
        pass
    assert [record.getMessage().partition(":")[0] for record in caplog.records] == [
        "could not report tool_started of p",
        "could not report tool_finished of p",
    ]


def test_the_other_events(client, server):
    with client.program("p") as program:
        program.idle()
        program.resumed()
        program.interrupted()
        assert program.view().program_id == "p"
    types = [seen.body["type"] for seen in server.seen if seen.path == "/programs/p/events"]
    assert types == ["idle", "resumed", "interrupted"]


def test_a_child_knows_its_parent(client, server):
    with client.program("p", group="g", priority=3) as program, program.child("c"):
        pass
    assert server.seen[1].body == {"program_id": "c", "parent_id": "p", "group": "g", "priority": 3}


def test_ids_are_encoded_in_paths(client, server):
    for program_id in ("a/b c?ü", ".."):
        client.get(program_id)
    assert [seen.path for seen in server.seen] == ["/programs/a%2Fb%20c%3F%C3%BC", "/programs/%2E%2E"]


def test_no_answer_in_time_is_unreachable(server):
    server.then("GET /programs/p", silent)
    settings = {"timeout": httpx.Timeout(60, read=0.2), "retry": RetryPolicy(max_retries=0)}
    with Client(server.url, **settings) as client, pytest.raises(UnreachableError, match="ReadTimeout"):
        client.get("p")


def test_an_unknown_program_is_not_found(client, server):
    server.then("GET /programs/p", error(404, "There is no program 'p'.", "program_not_found", "program_id"))
    with pytest.raises(NotFoundError) as caught:
        client.get("p")
    assert str(caught.value) == "There is no program 'p'. (HTTP 404, program_not_found)"
