"""What may have had an effect is not sent again once the server may have seen it."""

from __future__ import annotations

import pytest
from client_fakes import broken, error, reply

from thunderagent_core.client import ServerError, UnreachableError

BODY = {"model": "m", "input": "x"}
EFFECTS = [
    ("/v1/responses", {"store": True}),
    ("/v1/responses", {"background": True}),
    ("/v1/responses?x=1", {"store": True}),
    ("/v1/files", {}),
]


@pytest.mark.parametrize(("path", "fields"), EFFECTS)
def test_a_lost_answer_is_not_asked_for_again(client, server, waits, path, fields):
    line = f"POST {path.partition('?')[0]}"
    server.then(line, broken, broken, broken)
    for stream in (False, True):
        with pytest.raises(UnreachableError):
            client.generate(path, {**BODY, **fields}, stream=stream)
    assert (waits, server.lines) == ([], [line] * 2)


@pytest.mark.parametrize(("path", "fields"), EFFECTS)
async def test_neither_is_it_by_the_asynchronous_client(aclient, server, waits, path, fields):
    server.then(f"POST {path.partition('?')[0]}", broken, broken)
    with pytest.raises(UnreachableError):
        await aclient.generate(path, {**BODY, **fields})
    assert (waits, len(server.lines)) == ([], 1)


@pytest.mark.parametrize("status", [408, 500, 502])
def test_an_error_after_which_it_may_have_happened_is_raised(client, server, waits, status):
    server.then("POST /v1/responses", error(status))
    with pytest.raises(Exception, match=f"HTTP {status}"):
        client.generate("/v1/responses", {**BODY, "store": True})
    assert waits == []


def test_what_the_server_has_not_acted_on_is_sent_again(client, server, waits):
    server.then("POST /v1/responses", error(503, retry_after="2"), reply(200, {"output": []}))
    assert client.generate("/v1/responses", {**BODY, "store": True}) == {"output": []}
    assert waits == [2.0]


@pytest.mark.parametrize("fields", [{}, {"store": False}, {"store": None, "background": False}])
def test_a_plain_response_is_asked_for_again(client, server, waits, fields):
    server.then("POST /v1/responses", broken, error(500), reply(200, {"output": []}))
    assert client.generate("/v1/responses", {**BODY, **fields}) == {"output": []}
    assert waits == [0.5, 1.0]


def test_a_plain_response_is_given_up_at_some_time(client, server):
    server.then("POST /v1/responses", *[error(500) for _ in range(9)])
    with pytest.raises(ServerError):
        client.generate("/v1/responses", BODY)
    assert len(server.lines) == 5
