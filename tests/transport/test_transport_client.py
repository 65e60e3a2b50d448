"""What the connection pool sends, how it reads answers, and when it uses a connection again."""

from __future__ import annotations

import asyncio
import ssl
from pathlib import Path

import pytest
from transport_tools import soon

from thunderagent_core.transport.client import ConnectionPool
from thunderagent_core.transport.messages import ConnectFailedError, ConnectionLostError

TLS = Path(__file__).parent / "tls"


async def always_ok(peer):
    while True:
        await peer.request()
        peer.ok()


def scripted(data, *, close=False):
    """Answer each request with the same bytes."""

    async def script(peer):
        while True:
            await peer.request()
            peer.send(data)
            if close:
                return

    return script


async def test_a_request_as_the_upstream_sees_it(upstream, pool):
    seen = []

    async def script(peer):
        while True:
            seen.append(await peer.request())
            peer.ok()

    server = await upstream(script)
    to = pool(server, prefix="/base/")
    for method, body in (("POST", b"hello"), ("POST", b""), ("GET", b""), ("DELETE", b"x")):
        response = await to.request(method, "/v1/a%20b?c=d", [(b"x-a", b"1")], body)
        assert (response.status, await response.read()) == (200, b"fine")
    host = {"x-a": "1", "host": f"127.0.0.1:{server.port}"}
    assert seen == [
        ("POST /base/v1/a%20b?c=d HTTP/1.1", {**host, "content-length": "5"}, b"hello"),
        ("POST /base/v1/a%20b?c=d HTTP/1.1", {**host, "content-length": "0"}, b""),
        ("GET /base/v1/a%20b?c=d HTTP/1.1", host, b""),
        ("DELETE /base/v1/a%20b?c=d HTTP/1.1", {**host, "content-length": "1"}, b"x"),
    ]
    assert len(server.peers) == 1


async def test_a_large_body_arrives_whole(upstream, pool):
    seen = []

    async def script(peer):
        seen.append(await peer.request())
        peer.ok()

    body = bytes(range(256)) * 40_000
    response = await pool(await upstream(script)).request("POST", "/", [], body)
    assert response.status == 200
    assert seen[0][2] == body


async def test_the_response_is_here_before_its_body(upstream, pool):
    go_on = asyncio.Event()

    async def script(peer):
        await peer.request()
        peer.send(b"HTTP/1.1 202 Accepted\r\nX-Up: Value \r\nTransfer-Encoding: chunked\r\n\r\n")
        await go_on.wait()
        peer.send(b"3\r\nabc\r\n0\r\n\r\n")

    response = await pool(await upstream(script)).request("GET", "/", [], b"")
    assert response.status == 202
    assert response.headers == [(b"x-up", b"Value"), (b"transfer-encoding", b"chunked")]
    go_on.set()
    assert [piece async for piece in response] == [b"abc"]
    assert [piece async for piece in response] == []


async def test_chunks_that_arrive_together_are_one_piece(upstream, pool):
    chunks = b"".join(b"5\r\n%05d\r\n" % number for number in range(1000))
    head = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"
    server = await upstream(scripted(head + chunks + b"0\r\nx-trailer: 1\r\n\r\n"))
    response = await pool(server).request("GET", "/", [], b"")
    pieces = [piece async for piece in response]
    assert b"".join(pieces) == b"".join(b"%05d" % number for number in range(1000))
    assert len(pieces) < 20
    assert response.headers == [(b"transfer-encoding", b"chunked")]


@pytest.mark.parametrize(
    ("method", "data", "body"),
    [
        ("HEAD", b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n", b""),
        ("HEAD", b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n", b""),
        ("GET", b"HTTP/1.1 204 No Content\r\n\r\n", b""),
        ("GET", b"HTTP/1.1 304 Not Modified\r\ncontent-length: 100\r\n\r\n", b""),
        ("GET", b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n", b""),
        ("POST", b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok", b"ok"),
        (
            "GET",
            b"HTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\n" * 2 + b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok",
            b"ok",
        ),
        ("GET", b"HTTP/1.0 200 OK\r\nconnection: keep-alive\r\ncontent-length: 2\r\n\r\nok", b"ok"),
    ],
)
async def test_bodies_that_end_by_themselves(upstream, pool, method, data, body):
    server = await upstream(scripted(data))
    to = pool(server)
    for _ in range(3):
        response = await to.request(method, "/", [], b"")
        assert await response.read() == body
        assert b"link" not in dict(response.headers)
        response.close()
    assert len(server.peers) == 1


@pytest.mark.parametrize("version", [b"1.0", b"1.1"])
async def test_a_body_that_ends_with_the_connection(upstream, pool, version):
    server = await upstream(scripted(b"HTTP/%b 200 OK\r\n\r\nall of it" % version, close=True))
    to = pool(server)
    for _ in range(2):
        assert await (await to.request("GET", "/", [], b"")).read() == b"all of it"
    assert len(server.peers) == 2


@pytest.mark.parametrize(
    "data",
    [
        b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 2\r\n\r\nok",
        b"HTTP/1.0 200 OK\r\ncontent-length: 2\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nokHTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nbad",
        b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok and more",
        b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 2\r\n\r\nok and more",
    ],
    ids=["close", "1.0", "second answer", "garbage", "garbage after close"],
)
async def test_a_connection_is_not_used_again(upstream, pool, data):
    server = await upstream(scripted(data))
    to = pool(server)
    for number in range(3):
        assert await (await to.request("GET", "/", [], b"")).read() == b"ok"
        await soon(lambda: not to._all)
        assert len(server.peers) == number + 1


async def test_surplus_after_a_head_answer_ends_the_connection(upstream, pool):
    server = await upstream(scripted(b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nbody"))
    to = pool(server)
    for _ in range(2):
        assert await (await to.request("HEAD", "/", [], b"")).read() == b""
        await soon(lambda: not to._all)


async def test_an_answer_before_the_whole_request_ends_the_connection(upstream, pool):
    """An upstream may refuse a long body before it has read it."""
    released = asyncio.Event()

    async def script(peer):
        await peer.reader.readuntil(b"\r\n\r\n")
        peer.send(b"HTTP/1.1 413 Too Large\r\ncontent-length: 2\r\n\r\nno")
        await released.wait()
        await peer.gone()

    to = pool(await upstream(script))
    response = await to.request("POST", "/", [], bytes(32 * 1024 * 1024))
    assert (response.status, await response.read()) == (413, b"no")
    await soon(lambda: not to._all)
    released.set()


async def test_unsolicited_bytes_on_an_idle_connection_end_it(upstream, pool):
    go_on = asyncio.Event()

    async def script(peer):
        await peer.request()
        peer.ok()
        await go_on.wait()
        peer.send(b"HTTP/1.1 408 Request Timeout\r\ncontent-length: 0\r\n\r\n")
        await peer.gone()

    to = pool(await upstream(script))
    await (await to.request("GET", "/", [], b"")).read()
    assert len(to._all) == 1
    go_on.set()
    await soon(lambda: not to._all)


async def test_concurrent_requests_do_not_mix(upstream, pool):
    async def script(peer):
        while True:
            _, _, body = await peer.request()
            peer.ok(body)

    to = pool(await upstream(script))

    async def client(number):
        for turn in range(50):
            body = b"%d-%d" % (number, turn)
            assert await (await to.request("POST", "/", [], body)).read() == body

    await asyncio.gather(*(client(number) for number in range(20)))
    assert len(to._all) <= 20


async def test_idle_connections_are_limited_and_expire(upstream, pool):
    server = await upstream(always_ok)
    to = pool(server, max_idle=2, idle_s=0.05)
    responses = await asyncio.gather(*(to.request("GET", "/", [], b"") for _ in range(5)))
    for response in responses:
        await response.read()
    await soon(lambda: len(to._all) <= 2)
    await soon(lambda: not to._all)
    assert await (await to.request("GET", "/", [], b"")).read() == b"fine"


async def test_https(upstream, pool):
    serving = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    serving.load_cert_chain(TLS / "certificate.pem", TLS / "key.pem")
    server = await upstream(always_ok, ssl=serving)
    trusting = ssl.create_default_context(cafile=TLS / "certificate.pem")
    to = pool(server, scheme="https", ssl_context=trusting)
    for _ in range(2):
        assert await (await to.request("GET", "/", [], b"")).read() == b"fine"
    assert len(server.peers) == 1


async def test_an_untrusted_certificate_is_refused(upstream, pool):
    serving = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    serving.load_cert_chain(TLS / "certificate.pem", TLS / "key.pem")
    server = await upstream(always_ok, ssl=serving)
    with pytest.raises(ConnectFailedError, match=r"(?i)certificate"):
        await pool(server, scheme="https").request("GET", "/", [], b"")


async def test_a_connection_that_takes_too_long_fails(upstream, pool):
    async def silent(peer):
        await peer.gone()

    server = await upstream(silent)  # it never begins its part of the TLS handshake
    with pytest.raises(ConnectFailedError, match=r"within 0\.05 s"):
        await pool(server, scheme="https", connect_timeout_s=0.05).request("GET", "/", [], b"")


async def test_nothing_listens(no_leaks, closed_port):
    to = ConnectionPool(f"http://127.0.0.1:{closed_port}")
    with pytest.raises(ConnectFailedError):
        await to.request("GET", "/", [], b"")
    await to.aclose()


async def test_closing_the_pool_ends_what_is_under_way(upstream, pool):
    entered = asyncio.Event()

    async def script(peer):
        await peer.request()
        entered.set()
        await peer.gone()

    to = pool(await upstream(script))
    asking = asyncio.get_running_loop().create_task(to.request("GET", "/", [], b""))
    await entered.wait()
    await to.aclose()
    await to.aclose()
    with pytest.raises(ConnectionLostError, match="pool was closed"):
        await asking
    with pytest.raises(ConnectFailedError, match="closed"):
        await to.request("GET", "/", [], b"")


@pytest.mark.parametrize(
    "url",
    ["localhost:8000", "ftp://x", "http://", "http://x?a=b", "http://x#a", "http://u:p@x", "http://x:99999",
     "http://x:0", "http://bücher.example"],
)  # fmt: skip
def test_what_is_not_a_base_url(url):
    with pytest.raises(ValueError, match=r"not an|has no|[Pp]ort"):
        ConnectionPool(url)
