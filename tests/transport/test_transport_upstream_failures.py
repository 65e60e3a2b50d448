"""Upstreams that die or lag, callers that give up, and what is retried."""

from __future__ import annotations

import asyncio

import pytest
from transport_tools import HANG_S, soon

from thunderagent_core.transport.messages import ConnectionLostError

HEAD = b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\n"
CHUNKED = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"


@pytest.mark.parametrize("end", ["close", "reset"])
@pytest.mark.parametrize("data", [HEAD + b"12345", CHUNKED + b"5\r\n12345\r\n", CHUNKED + b"a\r\n12345"])
async def test_an_upstream_that_dies_in_the_body(upstream, pool, end, data):
    go_on = asyncio.Event()

    async def script(peer):
        await peer.request()
        peer.send(data)
        await go_on.wait()
        if end == "reset":
            peer.reset()

    server = await upstream(script)
    response = await pool(server).request("POST", "/", [], b"")
    pieces = []
    with pytest.raises(ConnectionLostError) as caught:
        async for piece in response:
            pieces.append(piece)
            go_on.set()
    assert b"".join(pieces) == b"12345"
    assert caught.value.response_started
    with pytest.raises(ConnectionLostError):  # reading on does not turn it into a whole answer
        await response.read()
    assert len(server.peers) == 1


@pytest.mark.parametrize(
    ("data", "started"),
    [(b"", False), (b"HTTP/1.1 200 OK\r\ncontent-le", True), (b"HTTP/1.1 100 Continue\r\n\r\n", True)],
)
async def test_an_upstream_that_dies_before_its_answer_is_not_asked_again(upstream, pool, data, started):
    async def script(peer):
        await peer.request()
        peer.send(data)

    server = await upstream(script)
    with pytest.raises(ConnectionLostError) as caught:
        await pool(server).request("POST", "/", [], b"")
    assert caught.value.response_started is started
    assert len(server.peers) == 1


@pytest.mark.parametrize(
    "data",
    [
        b"220 mail.example ESMTP\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: x\r\n\r\n",
        CHUNKED + b"zz\r\n",
        b"HTTP/1.1 200 OK\r\nx-endless: " + b"x" * 600_000,
    ],
    ids=["no HTTP", "two lengths", "another protocol", "no chunk", "endless head"],
)
async def test_an_upstream_that_does_not_speak_http(upstream, pool, data):
    async def script(peer):
        await peer.request()
        peer.send(data)
        await peer.gone()

    with pytest.raises(ConnectionLostError, match=r"HTTP/1\.1|exceeds"):
        await (await pool(await upstream(script)).request("POST", "/", [], b"")).read()


def dies_when_used_again(*, answer=b"", fresh_dies=False):
    async def script(peer):
        await peer.request()
        if peer.number and fresh_dies:
            return
        peer.ok()
        await peer.request()
        peer.send(answer)

    return script


async def test_a_kept_connection_that_died_is_replaced_once(upstream, pool):
    server = await upstream(dies_when_used_again())
    to = pool(server)
    for number in range(3):
        response = await to.request("POST", "/", [], b"body")
        assert await response.read() == b"fine"
        assert len(server.peers) == number + 1


async def test_the_replacement_is_not_replaced(upstream, pool):
    server = await upstream(dies_when_used_again(fresh_dies=True))
    to = pool(server)
    await (await to.request("POST", "/", [], b"")).read()
    with pytest.raises(ConnectionLostError) as caught:
        await to.request("POST", "/", [], b"")
    assert not caught.value.response_started
    assert len(server.peers) == 2


async def test_a_kept_connection_that_had_begun_to_answer_is_not_replaced(upstream, pool):
    server = await upstream(dies_when_used_again(answer=b"HTTP/1.1 200"))
    to = pool(server)
    await (await to.request("POST", "/", [], b"")).read()
    with pytest.raises(ConnectionLostError) as caught:
        await to.request("POST", "/", [], b"")
    assert caught.value.response_started
    assert len(server.peers) == 1


async def test_a_connection_closed_while_idle_is_not_chosen(upstream, pool):
    async def script(peer):
        await peer.request()
        peer.ok()

    server = await upstream(script)
    to = pool(server)
    for _ in range(3):
        assert await (await to.request("POST", "/", [], b"")).read() == b"fine"
        await soon(lambda: not to._all)
    assert len(server.peers) == 3


class Watched:
    """An upstream that sends ``data`` and then knows when the pool has closed the connection."""

    def __init__(self, data=b""):
        self.data = data
        self.entered = asyncio.Event()
        self.closed = asyncio.Event()

    async def __call__(self, peer):
        await peer.request()
        peer.send(self.data)
        self.entered.set()
        await peer.gone()
        self.closed.set()


async def passed(event):
    async with asyncio.timeout(HANG_S):
        await event.wait()


async def test_cancelling_a_request_closes_its_connection(upstream, pool):
    script = Watched()
    to = pool(await upstream(script))
    asking = asyncio.get_running_loop().create_task(to.request("POST", "/", [], b""))
    await passed(script.entered)
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
    await passed(script.closed)
    await soon(lambda: not to._all)


async def test_cancelling_a_reader_closes_the_connection(upstream, pool):
    script = Watched(HEAD + b"12345")
    to = pool(await upstream(script))
    response = await to.request("POST", "/", [], b"")
    reading = asyncio.get_running_loop().create_task(response.read())
    await asyncio.sleep(0.01)
    with pytest.raises(RuntimeError, match="one task"):
        await response.read()
    reading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reading
    await passed(script.closed)


async def test_closing_an_unfinished_response_closes_the_connection(upstream, pool):
    script = Watched(HEAD + b"12345")
    response = await pool(await upstream(script)).request("POST", "/", [], b"")
    response.close()
    response.close()
    await passed(script.closed)
    with pytest.raises(ConnectionLostError, match="closed before its end"):
        await response.read()


async def test_cancelling_while_connecting_leaves_nothing(upstream, pool):
    async def silent(peer):
        await peer.gone()

    server = await upstream(silent)
    asking = asyncio.get_running_loop().create_task(pool(server, scheme="https").request("GET", "/", [], b""))
    await soon(lambda: len(server.peers) == 1)
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking


@pytest.mark.parametrize("turns", range(12))
async def test_cancelling_at_any_moment_leaves_nothing(upstream, pool, turns):
    """Also in the moment in which the connection has been made and nobody has it yet."""
    server = await upstream(dies_when_used_again())
    to = pool(server)
    asking = asyncio.get_running_loop().create_task(to.request("GET", "/", [], b""))
    for _ in range(turns):
        await asyncio.sleep(0)
    asking.cancel()
    await asyncio.gather(asking, return_exceptions=True)
    async with asyncio.timeout(HANG_S):
        await to.aclose()
    assert not to._all


@pytest.mark.parametrize("part", [HEAD + b"0123456789", HEAD])
async def test_a_late_cancellation_spares_the_next_request(upstream, pool, part):
    """The answer is here and its connection is carrying another request when the first caller is cancelled."""
    answer, go_on = asyncio.Event(), asyncio.Event()

    async def script(peer):
        await peer.request()
        await answer.wait()
        peer.send(part)
        await peer.request()
        await go_on.wait()
        peer.ok()
        await peer.gone()

    server = await upstream(script)
    to = pool(server)
    loop = asyncio.get_running_loop()
    first = loop.create_task(to.request("POST", "/", [], b""))
    await soon(lambda: any(connection._waiter is not None for connection in to._all))
    (connection,) = to._all
    answer.set()
    while connection._waiter is not None:
        await asyncio.sleep(0)
    assert not first.done()
    first.cancel()
    if part == HEAD:
        with pytest.raises(asyncio.CancelledError):
            await first
        await soon(lambda: not to._all)
        return
    second = loop.create_task(to.request("POST", "/", [], b""))
    await asyncio.gather(first, return_exceptions=True)
    go_on.set()
    assert await (await second).read() == b"fine"
    assert len(server.peers) == 1


async def test_a_lagging_consumer_stops_the_upstream(upstream, pool):
    total = 64 * 1024 * 1024
    sent = 0
    finished = asyncio.Event()

    async def script(peer):
        nonlocal sent
        await peer.request()
        peer.send(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % total)
        while sent < total:
            peer.send(bytes(65536))
            await peer.writer.drain()
            sent += 65536
        finished.set()
        await peer.gone()

    to = pool(await upstream(script))
    response = await to.request("GET", "/", [], b"")
    (connection,) = to._all
    await soon(lambda: connection._reading_paused)
    for _ in range(200):
        await asyncio.sleep(0)
    assert sent < total
    assert not finished.is_set()
    received, largest = 0, 0
    async for piece in response:
        received += len(piece)
        largest = max(largest, len(piece))
    assert received == total
    assert largest < 1024 * 1024
