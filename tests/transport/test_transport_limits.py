"""Input that is too large, too slow, ambiguous or not HTTP."""

from __future__ import annotations

import asyncio
import itertools

import pytest
from transport_tools import HANG_S, soon

from thunderagent_core.transport.reader import RequestReader

GET = b"GET / HTTP/1.1\r\nhost: x\r\n\r\n"
POST = b"POST / HTTP/1.1\r\nhost: x\r\n"
CHUNKED = POST + b"transfer-encoding: chunked\r\n\r\n"


async def accept(request, responder):
    responder.send(200, [], request.body)


async def never(request, responder):
    raise AssertionError("what was refused has reached the handler")


async def send_until_refused(client, pieces):
    """Send until an answer is here; return how many bytes went out and the answer."""
    answering = asyncio.get_running_loop().create_task(client.answer())
    sent = 0
    for piece in pieces:
        client.send(piece)
        sent += len(piece)
        await asyncio.sleep(0)
        if answering.done():
            break
    return sent, await answering


async def test_a_body_over_the_limit_is_refused_before_it_is_sent(serve, connect):
    client = await connect(await serve(never, max_body_bytes=1000))
    client.send(POST + b"content-length: 1001\r\n\r\n")
    answer = await client.answer()
    assert (answer.status, answer.headers["connection"]) == (413, "close")
    assert await client.rest() == b""


async def test_a_body_over_the_limit_is_not_invited(serve, connect):
    client = await connect(await serve(never, max_body_bytes=1000))
    client.send(POST + b"expect: 100-continue\r\ncontent-length: 1001\r\n\r\n")
    assert (await client.answer()).status == 413


async def test_a_chunked_body_is_refused_as_soon_as_it_passes_the_limit(serve, connect):
    client = await connect(await serve(never, max_body_bytes=1000))
    chunks = (b"64\r\n" + b"x" * 100 + b"\r\n" for _ in itertools.count())
    _, answer = await send_until_refused(client, itertools.chain([CHUNKED], chunks))
    assert answer.status == 413


@pytest.mark.parametrize("framing", ["length", "chunked"])
async def test_a_body_at_the_limit_is_accepted(serve, connect, framing):
    body = bytes(1000)
    client = await connect(await serve(accept, max_body_bytes=1000))
    if framing == "length":
        client.send(POST + b"content-length: 1000\r\n\r\n" + body)
    else:
        client.send(CHUNKED + b"3e8\r\n" + body + b"\r\n0\r\n\r\n")
    assert (await client.answer()).body == body


@pytest.mark.parametrize(
    "start",
    [b"GET /", b"GET / HTTP/1.1\r\nx-long: ", b"GET / HTTP/1.1\r\nx-name"],
    ids=["target", "value", "name"],
)
async def test_a_head_without_end_is_refused(serve, connect, start):
    client = await connect(await serve(never, max_header_bytes=4096))
    sent, answer = await send_until_refused(client, itertools.chain([start], itertools.repeat(b"x" * 512)))
    assert answer.status == 431
    assert sent >= 4096


async def test_a_head_just_over_the_limit_is_refused_even_in_one_piece(serve, connect):
    server = await serve(accept, max_header_bytes=1000)
    for padding, status in ((900, 200), (1000, 431)):
        client = await connect(server)
        client.send(b"GET / HTTP/1.1\r\nhost: x\r\nx-a: " + b"x" * padding + b"\r\n\r\n")
        assert (await client.answer()).status == status


@pytest.mark.parametrize(
    ("start", "more"),
    [(b"1;", b"extension" * 50), (b"1\r\nx\r\n0\r\nx-trailer: ", b"x" * 500)],
    ids=["extension", "trailer"],
)
async def test_framing_without_end_is_refused(serve, connect, start, more):
    client = await connect(await serve(never, max_header_bytes=4096))
    _, answer = await send_until_refused(client, itertools.chain([CHUNKED + start], itertools.repeat(more)))
    assert answer.status == 400


async def test_one_byte_chunks_are_a_body_like_any_other(serve, connect):
    client = await connect(await serve(accept, max_header_bytes=4096))
    client.send(CHUNKED)
    for _ in range(20):
        client.send(b"1\r\nx\r\n" * 500)
        await asyncio.sleep(0)
    client.send(b"0\r\n\r\n")
    assert (await client.answer()).body == b"x" * 10_000


@pytest.mark.parametrize("received", [b"GET / HT", POST + b"content-length: 5\r\n\r\nabc", CHUNKED + b"5\r\na"])
async def test_a_request_that_does_not_arrive_in_time_is_refused(serve, connect, received):
    server = await serve(never, request_timeout_s=0.05)
    client = await connect(server)
    client.send(received)
    assert (await client.answer()).status == 408
    assert await client.rest() == b""


async def test_bytes_that_trickle_do_not_extend_the_time(serve, connect):
    client = await connect(await serve(never, request_timeout_s=0.05))
    answering = asyncio.get_running_loop().create_task(client.answer())
    client.send(POST + b"x-a: ")
    while not answering.done():
        client.send(b"x")
        await asyncio.sleep(0.005)
    assert (await answering).status == 408


@pytest.mark.parametrize("sent", [b"", GET, b"\r\n\r\n"], ids=["nothing", "one request", "empty lines"])
async def test_an_idle_connection_is_closed_without_a_word(serve, connect, sent):
    server = await serve(accept, keep_alive_s=1.0 if sent == GET else 0.05)  # time for the request to arrive
    client = await connect(server)
    client.send(sent)
    if sent == GET:
        await client.answer()
    assert await client.rest() == b""
    await soon(lambda: server.connections == 0)


async def test_a_client_that_takes_nothing_is_dropped(serve, connect):
    cancelled = asyncio.Event()

    async def handler(request, responder):
        responder.start(200, [])
        try:
            while True:
                responder.write(bytes(65536))
                await responder.drain()
        except asyncio.CancelledError:
            cancelled.set()
            raise

    server = await serve(handler, send_timeout_s=0.05)
    client = await connect(server, receive_buffer=4096)
    client.writer.transport.pause_reading()
    client.send(GET)
    async with asyncio.timeout(HANG_S):
        await cancelled.wait()


SMUGGLED = b"GET /smuggled HTTP/1.1\r\nhost: x\r\n\r\n"
AMBIGUOUS = {
    "two lengths": b"content-length: 0\r\ncontent-length: 37\r\n\r\n",
    "two equal lengths": b"content-length: 0\r\ncontent-length: 0\r\n\r\n",
    "list of lengths": b"content-length: 0, 0\r\n\r\n",
    "negative length": b"content-length: -1\r\n\r\n",
    "signed length": b"content-length: +0\r\n\r\n",
    "hexadecimal length": b"content-length: 0x0\r\n\r\n",
    "empty length": b"content-length: \r\n\r\n",
    "length of 10**30": b"content-length: 1" + b"0" * 30 + b"\r\n\r\n",
    "length and coding": b"content-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
    "coding and length": b"transfer-encoding: chunked\r\ncontent-length: 5\r\n\r\n0\r\n\r\n",
    "coding twice": b"transfer-encoding: chunked\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
    "chunked is not last": b"transfer-encoding: chunked, gzip\r\n\r\n0\r\n\r\n",
    "unknown coding": b"transfer-encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    "identity": b"transfer-encoding: identity\r\n\r\n0\r\n\r\n",
    "obscured coding": b"transfer-encoding: xchunked\r\n\r\n0\r\n\r\n",
    "coding with a tab": b"transfer-encoding:\tchunked\x0b\r\n\r\n0\r\n\r\n",
    "space before the colon": b"transfer-encoding : chunked\r\n\r\n0\r\n\r\n",
    "folded header": b"x-a: b\r\n transfer-encoding: chunked\r\n\r\n",
    "bare line feed": b"x-a: b\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
    "bare carriage return": b"x-a: b\rcontent-length: 5\r\n\r\n",
    "NUL": b"x-a: b\0c\r\n\r\n",
    "no name": b": b\r\n\r\n",
    "second host": b"host: y\r\n\r\n",
    "other expectation": b"expect: magic\r\n\r\n",
    "bad chunk size": b"transfer-encoding: chunked\r\n\r\n0x0\r\n\r\n",
    "negative chunk size": b"transfer-encoding: chunked\r\n\r\n-1\r\n\r\n",
    "huge chunk size": b"transfer-encoding: chunked\r\n\r\nfffffffffffffffff\r\n\r\n",
    "chunk longer than its size": b"transfer-encoding: chunked\r\n\r\n1\r\nab\r\n0\r\n\r\n",
    "line feed after chunk size": b"transfer-encoding: chunked\r\n\r\n1\na\r\n0\r\n\r\n",
}


@pytest.mark.parametrize("rest", AMBIGUOUS.values(), ids=AMBIGUOUS.keys())
async def test_an_ambiguous_request_ends_the_connection(serve, connect, rest):
    client = await connect(await serve(never))
    client.send(POST + rest + SMUGGLED)
    answer = await client.answer()
    assert answer.status in (400, 413, 417, 501)
    assert answer.headers["connection"] == "close"
    assert await client.rest() == b""


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400),  # a TLS hello
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400),
        (b"GET / HTTP/2.0\r\nhost: x\r\n\r\n", 505),
        (b"GET /\r\n\r\n", 505),
        (b"GET / HTTP/1.1\r\n\r\n", 400),  # no host
        (b"MAKE / HTTP/1.1\r\nhost: x\r\n\r\n", 400),
        (b"CONNECT x:443 HTTP/1.1\r\nhost: x\r\n\r\n", 501),
        (b"POST / HTTP/1.0\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n", 400),
        (bytes(range(256)), 400),
    ],
)
async def test_what_is_not_a_request_is_refused(serve, connect, data, status):
    client = await connect(await serve(never))
    client.send(data)
    assert (await client.answer()).status == status
    assert await client.rest() == b""


async def test_requests_before_a_bad_one_are_answered_first(serve, connect):
    client = await connect(await serve(accept))
    client.send(POST + b"content-length: 2\r\n\r\nok" + GET + b"nonsense\r\n\r\n" + GET)
    assert [(await client.answer()).status for _ in range(3)] == [200, 200, 400]
    assert await client.rest() == b""


async def test_a_refusal_reaches_a_client_that_is_still_sending(serve, connect):
    """A TCP reset by a server with unread input would destroy it."""
    client = await connect(await serve(never, max_body_bytes=10))
    client.send(POST + b"content-length: 8000000\r\n\r\n" + bytes(8_000_000))
    await client.writer.drain()
    assert (await client.answer()).status == 413


def test_the_reader_ignores_input_after_a_refusal():
    reader = RequestReader(100, 1000)
    reader.feed(b"nonsense\r\n\r\n")
    refusal = reader.refusal
    reader.feed(GET)
    assert refusal is reader.refusal is not None
    assert not reader.ready
