"""Whatever the bytes and wherever the network cuts them, the same messages come out."""

from __future__ import annotations

import asyncio

import pytest
import uvloop
from hypothesis import given, settings
from hypothesis import strategies as st
from transport_tools import RawClient, Upstream

from thunderagent_core.transport.client import ConnectionPool
from thunderagent_core.transport.headers import encode_fields, end_to_end, request_line, status_line
from thunderagent_core.transport.reader import RequestReader
from thunderagent_core.transport.server import HttpServer

STREAM = (
    b"POST /a?b=c HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhello"
    b"\r\nGET /empty HTTP/1.1\r\nhost: x\r\nx-empty:\r\nx-a: 1\r\n\r\n"
    b"POST /chunked HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n"
    b"3;e=1\r\nabc\r\n1\r\nd\r\n0\r\nx-trailer: 1\r\n\r\n"
    b"POST /h2c HTTP/1.1\r\nhost: x\r\nconnection: upgrade\r\nupgrade: h2c\r\ncontent-length: 2\r\n\r\nok"
    b"HEAD /last HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"
)


def read(*pieces):
    reader = RequestReader(1000, 1000)
    for piece in pieces:
        reader.feed(piece)
    assert reader.refusal is None
    return [received.request for received in reader.ready]


def test_a_pipelined_stream_reads_the_same_wherever_it_is_cut():
    whole = read(STREAM)
    assert [(each.method, each.path, each.body) for each in whole] == [
        ("POST", "/a", b"hello"),
        ("GET", "/empty", b""),
        ("POST", "/chunked", b"abcd"),
        ("POST", "/h2c", b"ok"),
        ("HEAD", "/last", b""),
    ]
    for cut in range(len(STREAM)):
        assert [each.body for each in read(STREAM[:cut], STREAM[cut:])] == [each.body for each in whole]
        parts = read(STREAM[:cut], STREAM[cut:])
        drop = {b"upgrade"}
        assert [(e.method, e.path, e.query, [f for f in e.headers if f[0] not in drop]) for e in parts] == [
            (e.method, e.path, e.query, [f for f in e.headers if f[0] not in drop]) for e in whole
        ]
    assert read(*(STREAM[i : i + 1] for i in range(len(STREAM)))) == whole


async def test_a_pipelined_stream_is_answered_wherever_it_is_cut(serve):
    async def echo(request, responder):
        responder.send(200, [], request.path.encode() + request.body)

    server = await serve(echo)
    expected = [b"/ahello", b"/empty", b"/chunkedabcd", b"/h2cok"]
    for cut in range(len(STREAM)):
        client = await RawClient.connect(server.port)
        client.send(STREAM[:cut])
        await asyncio.sleep(0)
        client.send(STREAM[cut:])
        assert [(await client.answer()).body for _ in expected] == expected
        assert (await client.answer(to_head=True)).headers["connection"] == "close"
        assert await client.rest() == b""
        await client.close()


bodies = st.lists(st.binary(max_size=3000), max_size=8)
cuts = st.lists(st.integers(1, 400), min_size=1, max_size=20)


def sliced(data, sizes):
    """Cut ``data`` into pieces of these sizes, over and over."""
    pieces, number = [], 0
    while data:
        size = sizes[number % len(sizes)]
        pieces.append(data[:size])
        data, number = data[size:], number + 1
    return pieces


def chunked(pieces):
    return b"".join(b"%x\r\n%b\r\n" % (len(each), each) for each in pieces if each) + b"0\r\n\r\n"


@given(st.lists(st.tuples(bodies, st.booleans()), max_size=5), cuts)
def test_requests_read_the_same_in_any_chunks_and_cuts(requests, sizes):
    wire = b""
    for pieces, in_chunks in requests:
        if in_chunks:
            wire += b"POST / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n" + chunked(pieces)
        else:
            body = b"".join(pieces)
            wire += b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body)
    reader = RequestReader(100_000, 10_000)
    for piece in sliced(wire, sizes):
        reader.feed(piece)
    assert [each.request.body for each in reader.ready] == [b"".join(pieces) for pieces, _ in requests]
    assert not reader.receiving


@given(st.lists(st.binary(max_size=200) | st.sampled_from([STREAM, b"\r\n", b"GET / HTTP/1.1\r\n", b"0\r\n\r\n"])))
def test_the_reader_takes_anything(pieces):
    reader = RequestReader(1000, 1000)
    for piece in pieces:
        reader.feed(piece)
    for received in reader.ready:
        assert len(received.request.body) <= 1000


@settings(max_examples=60, deadline=None)
@given(bodies, bodies, cuts, st.booleans(), st.sampled_from([asyncio.run, uvloop.run]))
def test_bodies_survive_client_and_server(sent, answered, sizes, framed, run):
    """Through our client, a relay of our server and client, and a scripted upstream with its own cuts."""

    async def script(peer):
        _, _, body = await peer.request()
        assert body == b"".join(sent)
        payload = b"".join(answered)
        if framed:
            wire = b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%b" % (len(payload), payload)
        else:
            wire = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n" + chunked(answered)
        for piece in sliced(wire, sizes):
            peer.send(piece)
            await asyncio.sleep(0)
        await peer.gone()

    async def exchange():
        upstream = Upstream(script)
        await upstream.start()
        inner = ConnectionPool(f"http://127.0.0.1:{upstream.port}")

        async def relay(request, responder):
            response = await inner.request(request.method, request.path, [], request.body)
            responder.start(response.status, end_to_end(response.headers))
            async for piece in response:
                responder.write(piece)
                await responder.drain()
            responder.finish()

        server = HttpServer(relay)
        await server.start("127.0.0.1", 0)
        outer = ConnectionPool(f"http://127.0.0.1:{server.port}")
        response = await outer.request("POST", "/", [], b"".join(sent))
        assert await response.read() == b"".join(answered)
        await outer.aclose()
        await server.stop(0)
        await inner.aclose()
        await upstream.stop()

    run(exchange())


NASTY = [b"a\r\nx-evil: 1", b"a\nb", b"a\rb", b"a\0b", b"\r\n", b"a\r\n\r\nbody"]


@pytest.mark.parametrize("value", NASTY)
def test_a_header_value_cannot_add_lines(value):
    with pytest.raises(ValueError, match="CR, LF or NUL"):
        encode_fields([(b"x-a", value)], frozenset(), b"")


@pytest.mark.parametrize("name", [b"", b"a b", b"a:", b"X-A", b"a\r\nb", b"\xff", b"a\0"])
def test_a_header_name_is_a_lower_case_token(name):
    with pytest.raises(ValueError, match="tokens"):
        encode_fields([(name, b"1")], frozenset(), b"")


@given(st.lists(st.tuples(st.binary(max_size=20), st.binary(max_size=30))))
def test_what_is_encoded_reads_back_as_it_was(headers):
    try:
        block = encode_fields(headers, frozenset((b"content-length",)), b"host: x\r\n")
    except ValueError:
        return
    lines = block.split(b"\r\n")
    assert lines[-3:] == [b"host: x", b"", b""]
    assert lines[:-3] == [name + b": " + value for name, value in headers]
    assert all(name != b"content-length" for name, _ in headers)


@pytest.mark.parametrize(
    ("method", "target"),
    [("GET x", "/"), ("", "/"), ("GÉT", "/"), ("GET", "/a b"), ("GET", "/\r\nx: y"), ("GET", "a"), ("GET", "/é")],
)
def test_a_request_line_cannot_be_broken(method, target):
    with pytest.raises(ValueError, match="not a"):
        request_line(method, target)


@pytest.mark.parametrize("status", [0, 100, 199, 1000, -1])
def test_only_final_statuses_are_sent(status):
    with pytest.raises(ValueError, match="final"):
        status_line(status)


def test_an_unknown_status_has_no_reason():
    assert status_line(599) == b"HTTP/1.1 599 \r\n"


def test_a_relay_drops_what_concerns_one_connection():
    headers = [(b"host", b"x"), (b"connection", b"Keep-Alive, X-Hop"), (b"x-hop", b"1"), (b"te", b"trailers")]
    kept = [(b"authorization", b"secret"), (b"traceparent", b"1"), (b"cookie", b"a"), (b"cookie", b"b")]
    assert end_to_end([*headers, *kept]) == kept
