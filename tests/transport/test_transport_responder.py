"""The rules that handlers must keep, and that a relay passes a client's leaving on."""

from __future__ import annotations

import asyncio

import pytest
from transport_tools import HANG_S

from thunderagent_core.transport.headers import end_to_end

GET = b"GET / HTTP/1.1\r\nhost: x\r\n\r\n"


async def echo(request, responder):
    responder.send(200, [], request.body)


def misuse(responder):
    """Return calls that are out of order, by what is wrong with them."""
    return {
        "write first": lambda: responder.write(b"x"),
        "finish first": lambda: responder.finish(),  # noqa: PLW0108 - responder is None at collection
        "start twice": lambda: (responder.start(200, []), responder.start(200, [])),
        "send after start": lambda: (responder.start(200, []), responder.send(200, [], b"")),
        "send twice": lambda: (responder.send(200, [], b""), responder.send(200, [], b"")),
        "write after send": lambda: (responder.send(200, [], b""), responder.write(b"x")),
        "finish twice": lambda: (responder.start(200, []), responder.finish(), responder.finish()),
        "write after finish": lambda: (responder.start(200, []), responder.finish(), responder.write(b"x")),
    }


@pytest.mark.parametrize("wrong", misuse(None))
async def test_calls_out_of_order(serve, connect, wrong):
    caught = []

    async def handler(request, responder):
        with pytest.raises(RuntimeError) as info:
            misuse(responder)[wrong]()
        caught.append(info)
        if not responder.started:
            responder.send(200, [], b"")
        elif not responder.finished:
            responder.finish()

    client = await connect(await serve(handler))
    client.send(GET)
    assert (await client.answer()).status == 200
    assert caught


@pytest.mark.parametrize(
    ("status", "headers", "body"),
    [
        (200, [(b"x-a", b"b\r\nx-evil: 1")], b""),
        (200, [(b"x-a: b\r\nx-evil", b"1")], b""),
        (200, [(b"content-length", b"1")], b""),
        (200, [(b"transfer-encoding", b"chunked")], b""),
        (200, [(b"connection", b"close")], b""),
        (204, [], b"body"),
        (100, [], b""),
    ],
)
async def test_a_head_that_would_break_the_message_is_never_sent(serve, connect, status, headers, body):
    async def handler(request, responder):
        responder.send(status, headers, body)

    client = await connect(await serve(handler))
    client.send(GET)
    answer = await client.answer()
    assert answer.status == 500
    assert "x-evil" not in answer.headers


@pytest.mark.parametrize("body", [b"12", b"1234"], ids=["short", "long"])
async def test_a_body_of_another_length_than_announced_breaks_the_connection(serve, connect, body):
    async def handler(request, responder):
        responder.start(200, [], length=3)
        responder.write(body)
        responder.finish()

    client = await connect(await serve(handler))
    client.send(GET)
    with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
        await client.answer()


async def test_a_handlers_own_date_is_kept(serve, connect):
    async def handler(request, responder):
        responder.send(200, [(b"date", b"yesterday")], b"")

    client = await connect(await serve(handler))
    client.send(GET)
    assert (await client.answer()).headers["date"] == "yesterday"


@pytest.mark.parametrize("answering", [False, True], ids=["before the answer", "in the stream"])
async def test_a_client_that_leaves_a_relay_closes_the_connection_behind_it(serve, connect, upstream, pool, answering):
    entered, closed = asyncio.Event(), asyncio.Event()

    async def script(peer):
        await peer.request()
        if answering:
            peer.send(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nab\r\n")
        entered.set()
        await peer.gone()
        closed.set()

    to = pool(await upstream(script))

    async def relay(request, responder):
        response = await to.request(request.method, request.path, end_to_end(request.headers), request.body)
        try:
            responder.start(response.status, end_to_end(response.headers))
            async for piece in response:
                responder.write(piece)
                await responder.drain()
            responder.finish()
        finally:
            response.close()

    client = await connect(await serve(relay))
    client.send(GET)
    async with asyncio.timeout(HANG_S):
        await entered.wait()
        if answering:
            assert b"ab" in await client.reader.readuntil(b"ab\r\n")
        await client.close()
        await closed.wait()


async def test_a_failing_handler_is_logged_and_answered_with_500(serve, connect, caplog):
    async def handler(request, responder):
        if request.path == "/bad":
            raise KeyError("my fault")
        await echo(request, responder)

    def refuse(status, message):
        return [(b"content-type", b"application/json")], b'{"code": %d}' % status

    client = await connect(await serve(handler, refuse=refuse))
    client.send(b"GET /bad HTTP/1.1\r\nhost: x\r\n\r\n" + GET)
    answer = await client.answer()
    assert (answer.status, answer.body) == (500, b'{"code": 500}')
    assert (await client.answer()).status == 200
    assert "my fault" in caplog.text


async def test_a_handler_that_fails_after_starting_breaks_the_connection(serve, connect, caplog):
    async def handler(request, responder):
        responder.start(200, [])
        responder.write(b"part")
        raise KeyError("my fault")

    client = await connect(await serve(handler))
    client.send(GET)
    with pytest.raises((asyncio.IncompleteReadError, ValueError, ConnectionError)):
        await client.answer()
    assert "my fault" in caplog.text


@pytest.mark.parametrize("version", [b"1.0", b"1.1"])
async def test_an_aborted_answer_never_looks_whole(serve, connect, version):
    async def handler(request, responder):
        responder.start(200, [])
        responder.write(b"part")
        await asyncio.sleep(0.001)
        responder.abort()

    client = await connect(await serve(handler))
    client.send(b"GET / HTTP/%b\r\nhost: x\r\n\r\n" % version)
    with pytest.raises((asyncio.IncompleteReadError, ValueError, ConnectionError)):
        await client.answer()


async def test_a_handler_that_does_not_answer_is_a_fault(serve, connect, caplog):
    async def handler(request, responder):
        pass

    client = await connect(await serve(handler))
    client.send(GET)
    assert (await client.answer()).status == 500
    assert "before its answer was complete" in caplog.text


async def test_a_faulty_refuse_does_not_hide_the_error(serve, connect, caplog):
    def refuse(status, message):
        return [(b"X-Bad", b"a\r\nb: c")], b""

    client = await connect(await serve(echo, refuse=refuse))
    client.send(b"nonsense\r\n\r\n")
    assert (await client.answer()).status == 400
    assert "refuse(400" in caplog.text
