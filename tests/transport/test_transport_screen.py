"""Requests that are refused by their heads, before anything of their bodies is kept."""

from __future__ import annotations

import pytest

from thunderagent_core.transport.messages import Refusal
from thunderagent_core.transport.reader import RequestReader, split_target

POST = b"POST /a?b HTTP/1.1\r\nhost: x\r\n"


async def accept(request, responder):
    responder.send(200, [], request.body)


async def never(request, responder):
    raise AssertionError("what was refused has reached the handler")


def only_with_key(method, path, headers):
    return None if (b"key", b"k") in headers else Refusal(401, f"{method} {path} without a key")


async def test_a_refusal_by_the_head_does_not_wait_for_the_body(serve, connect):
    client = await connect(await serve(never, screen=only_with_key))
    client.send(POST + b"content-length: 1000000\r\n\r\n")
    answer = await client.answer()
    assert (answer.status, answer.headers["connection"]) == (401, "close")
    assert answer.body == b"401 POST /a without a key\n"
    assert await client.rest() == b""


@pytest.mark.parametrize(
    "rest",
    [
        b"expect: 100-continue\r\ncontent-length: 9\r\n\r\n",
        b"connection: upgrade\r\nupgrade: h2c\r\ncontent-length: 9\r\n\r\n",
        b"transfer-encoding: chunked\r\n\r\n",
    ],
    ids=["expect", "upgrade", "chunked"],
)
async def test_no_way_around_the_screen(serve, connect, rest):
    client = await connect(await serve(never, screen=only_with_key))
    client.send(POST + rest)
    assert (await client.answer()).status == 401


async def test_what_is_welcome_is_served_and_each_request_is_judged(serve, connect):
    client = await connect(await serve(accept, screen=only_with_key))
    client.send(POST + b"key: k\r\ncontent-length: 2\r\n\r\nok" + POST + b"content-length: 2\r\n\r\nno")
    assert ((await client.answer()).status, (await client.answer()).status) == (200, 401)


def test_nothing_of_a_refused_body_is_kept():
    reader = RequestReader(1_000_000, 10_000, only_with_key)
    reader.feed(POST + b"content-length: 900000\r\n\r\n")
    for _ in range(9):
        reader.feed(bytes(100_000))
    assert reader.refusal is not None
    assert reader._parts == reader._pieces == []


@pytest.mark.parametrize("target", [b"http://[", b"http://[::1", b"http://[x]/", b"https://]/a"])
async def test_a_target_that_makes_no_sense_is_a_bad_request(serve, connect, caplog, target):
    client = await connect(await serve(never))
    client.send(b"GET " + target + b" HTTP/1.1\r\nhost: x\r\n\r\n")
    assert (await client.answer()).status == 400
    assert await client.rest() == b""
    assert not caplog.records


def test_targets():
    assert split_target(b"/a?b=c#d") == ("/a", "b=c")
    assert split_target(b"http://host?a=b") == ("/", "a=b")
    assert split_target(b"*") == ("*", "")
