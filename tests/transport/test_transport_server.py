"""What a well-behaved client sees of the server, and what handlers may rely on."""

from __future__ import annotations

import asyncio
import logging

import pytest
from transport_tools import soon

from thunderagent_core.transport.server import HttpServer

GET = b"GET / HTTP/1.1\r\nhost: x\r\n\r\n"


async def echo(request, responder):
    """Answer with what was understood."""
    line = f"{request.method} {request.path} {request.query} ".encode()
    responder.send(200, [(b"x-fields", str(len(request.headers)).encode())], line + request.body)


async def test_a_request_is_answered(serve, connect):
    client = await connect(await serve(echo))
    client.send(b"POST /v1/a%20b?c=d HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhello")
    answer = await client.answer()
    assert (answer.status, answer.body) == (200, b"POST /v1/a%20b c=d hello")
    assert answer.headers["date"].endswith("GMT")
    assert "connection" not in answer.headers


async def test_header_names_are_lower_case_and_values_trimmed(serve, connect):
    seen = []

    async def handler(request, responder):
        seen.extend(request.headers)
        assert request.header(b"x-a") == b"1"
        assert request.header(b"x-c") is None
        responder.send(200, [], b"")

    client = await connect(await serve(handler))
    client.send(b"GET / HTTP/1.1\r\nHost:   x \t\r\nX-A: 1\r\nX-Empty:\r\nX-A: 2\r\n\r\n")
    await client.answer()
    assert seen == [(b"host", b"x"), (b"x-a", b"1"), (b"x-empty", b""), (b"x-a", b"2")]


async def test_a_connection_carries_many_requests(serve, connect):
    client = await connect(await serve(echo))
    for number in range(50):
        client.send(b"GET /%d HTTP/1.1\r\nhost: x\r\n\r\n" % number)
        assert (await client.answer()).body == b"GET /%d  " % number


async def test_pipelined_requests_are_answered_in_order_one_at_a_time(serve, connect):
    running = 0

    async def handler(request, responder):
        nonlocal running
        running += 1
        assert running == 1
        await asyncio.sleep(0.002 if request.path == "/0" else 0)
        running -= 1
        responder.send(200, [], request.path.encode())

    client = await connect(await serve(handler))
    client.send(b"".join(b"GET /%d HTTP/1.1\r\nhost: x\r\n\r\n" % number for number in range(100)))
    assert [(await client.answer()).body for _ in range(100)] == [b"/%d" % n for n in range(100)]


async def test_a_chunked_body_is_joined_and_its_trailers_dropped(serve, connect):
    client = await connect(await serve(echo))
    head = b"POST / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n"
    client.send(head + b"3;ext=1\r\nabc\r\n1\r\nd\r\n0\r\nx-trailer: 1\r\n\r\n" + GET)
    answer = await client.answer()
    assert answer.body == b"POST /  abcd"
    assert answer.headers["x-fields"] == "2"
    assert (await client.answer()).body == b"GET /  "


async def test_a_stream_is_chunked_and_empty_pieces_do_not_end_it(serve, connect):
    async def handler(request, responder):
        responder.start(200, [(b"content-type", b"text/event-stream")])
        for piece in (b"a", b"", b"bc"):
            responder.write(piece)
            await responder.drain()
        responder.finish()

    client = await connect(await serve(handler))
    client.send(GET + GET)
    for _ in range(2):
        answer = await client.answer()
        assert (answer.headers["transfer-encoding"], answer.body) == ("chunked", b"abc")


async def test_the_head_of_a_stream_is_sent_before_its_body_exists(serve, connect):
    go_on = asyncio.Event()

    async def handler(request, responder):
        responder.start(200, [], length=2)
        await go_on.wait()
        responder.write(b"ok")
        responder.finish()

    client = await connect(await serve(handler))
    client.send(GET)
    assert b"content-length: 2\r\n" in await client.reader.readuntil(b"\r\n\r\n")
    go_on.set()
    assert await client.reader.readexactly(2) == b"ok"


@pytest.mark.parametrize("stream", [False, True])
async def test_head_gets_the_head_of_get(serve, connect, stream):
    async def handler(request, responder):
        if stream:
            responder.start(200, [], length=4)
            responder.write(b"body")
            responder.finish()
        else:
            responder.send(200, [], b"body")

    client = await connect(await serve(handler))
    client.send(GET.replace(b"GET", b"HEAD") + GET)
    answer = await client.answer(to_head=True)
    assert (answer.headers["content-length"], answer.body) == ("4", b"")
    assert (await client.answer()).body == b"body"


@pytest.mark.parametrize("status", [204, 304])
async def test_a_status_without_body_has_no_framing(serve, connect, status):
    async def handler(request, responder):
        if request.path == "/send":
            responder.send(status, [], b"")
        else:
            responder.start(status, [])
            responder.finish()

    client = await connect(await serve(handler))
    client.send(GET.replace(b"/", b"/send", 1) + GET)
    for _ in range(2):
        answer = await client.answer()
        assert answer.status == status
        assert not {"content-length", "transfer-encoding"} & answer.headers.keys()


async def test_connection_close_is_honoured(serve, connect):
    client = await connect(await serve(echo))
    client.send(GET.replace(b"\r\n\r\n", b"\r\nconnection: close\r\n\r\n") + GET)
    assert (await client.answer()).headers["connection"] == "close"
    assert await client.rest() == b""  # what was behind it is not answered


async def test_http_1_0_closes_unless_asked_to_keep(serve, connect):
    server = await serve(echo)
    client = await connect(server)
    client.send(b"GET / HTTP/1.0\r\nconnection: keep-alive\r\n\r\n" + b"GET /b HTTP/1.0\r\n\r\n")
    assert (await client.answer()).headers["connection"] == "keep-alive"
    assert (await client.answer()).body == b"GET /b  "
    assert await client.rest() == b""


async def test_a_stream_to_http_1_0_ends_with_the_connection(serve, connect):
    async def handler(request, responder):
        responder.start(200, [])
        responder.write(b"ab")
        responder.write(b"cd")
        responder.finish()

    client = await connect(await serve(handler))
    client.send(b"GET / HTTP/1.0\r\nconnection: keep-alive\r\n\r\n")
    answer = await client.answer()
    assert "transfer-encoding" not in answer.headers
    assert answer.body == b"abcd"


async def test_an_expected_continue_is_sent_once_and_only_when_needed(serve, connect):
    client = await connect(await serve(echo))
    head = b"POST /%d HTTP/1.1\r\nhost: x\r\nexpect: 100-continue\r\ncontent-length: 2\r\n\r\n"
    client.send(head % 0)
    assert (await client.answer()).status == 100
    client.send(b"ab" + head % 1 + b"cd")  # this one did not wait
    assert (await client.answer()).body == b"POST /0  ab"
    assert (await client.answer()).body == b"POST /1  cd"


async def test_continue_waits_for_the_answers_before_it(serve, connect):
    go_on = asyncio.Event()

    async def handler(request, responder):
        if request.path == "/0":
            await go_on.wait()
        await echo(request, responder)

    client = await connect(await serve(handler))
    client.send(b"GET /0 HTTP/1.1\r\nhost: x\r\n\r\n")
    client.send(b"POST /1 HTTP/1.1\r\nhost: x\r\nexpect: 100-continue\r\ncontent-length: 2\r\n\r\n")
    go_on.set()
    assert (await client.answer()).body == b"GET /0  "
    assert (await client.answer()).status == 100
    client.send(b"ab")
    assert (await client.answer()).body == b"POST /1  ab"


async def test_an_offer_of_another_protocol_is_declined(serve, connect):
    """Java's standard client sends this, with its body behind it."""
    client = await connect(await serve(echo))
    offer = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAA\r\n"
    client.send(b"POST /a HTTP/1.1\r\nhost: x\r\n" + offer + b"content-length: 4\r\n\r\nab")
    await asyncio.sleep(0)
    client.send(b"cd" + GET)
    answer = await client.answer()
    assert (answer.status, answer.body) == (200, b"POST /a  abcd")
    assert (await client.answer()).body == b"GET /  "


@pytest.mark.parametrize(
    ("target", "seen"),
    [
        (b"http://x/a?b", b"GET /a b "),
        (b"http://x?b", b"GET / b "),
        (b"/a?b?c", b"GET /a b?c "),
        (b"//a", b"GET //a  "),
    ],
)
async def test_request_targets(serve, connect, target, seen):
    client = await connect(await serve(echo))
    client.send(b"GET " + target + b" HTTP/1.1\r\nhost: x\r\n\r\n")
    assert (await client.answer()).body == seen


async def test_starting_and_stopping(serve):
    server = HttpServer(echo)
    with pytest.raises(RuntimeError, match="not listening"):
        _ = server.port
    await server.stop(0)  # nothing to stop
    other = await serve(echo)
    with pytest.raises(OSError, match="in use"):
        await server.start("127.0.0.1", other.port)
    with pytest.raises(RuntimeError, match="already"):
        await other.start("127.0.0.1", 0)


async def test_connections_are_counted(serve, connect, caplog):
    caplog.set_level(logging.WARNING)
    server = await serve(echo)
    client = await connect(server)
    await soon(lambda: server.connections == 1)
    client.reset()
    await soon(lambda: server.connections == 0)
    assert not caplog.records
