"""What may be sent twice, and for how long an upstream may be silent."""

from __future__ import annotations

import asyncio

import pytest
from transport_tools import HANG_S, soon

from thunderagent_core.transport.messages import ConnectionLostError, UpstreamSilentError

CHUNKED = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"


class Counting:
    """An upstream that answers, and dies on request bodies that say so; it counts what it has seen."""

    def __init__(self):
        self.seen = []

    async def __call__(self, peer):
        while True:
            _, _, body = await peer.request()
            self.seen.append(body)
            if body == b"die":
                return
            peer.ok()


async def test_what_is_not_repeatable_is_sent_once_though_connections_were_kept(upstream, pool):
    script = Counting()
    to = pool(await upstream(script))
    await (await to.request("POST", "/", [], b"first")).read()
    assert len(to._idle) == 1
    with pytest.raises(ConnectionLostError) as caught:
        await to.request("POST", "/", [], b"die", repeatable=False)
    assert not caught.value.response_started
    assert script.seen == [b"first", b"die"]


async def test_a_dead_kept_connection_does_not_fail_what_is_not_repeatable(upstream, pool):
    async def once(peer):
        await peer.request()
        peer.ok()
        await peer.request()

    to = pool(await upstream(once))
    for _ in range(3):
        assert await (await to.request("POST", "/", [], b"", repeatable=False)).read() == b"fine"


async def test_a_new_connection_of_what_is_not_repeatable_is_kept_for_others(upstream, pool):
    server = await upstream(Counting())
    to = pool(server)
    await (await to.request("POST", "/", [], b"", repeatable=False)).read()
    await (await to.request("POST", "/", [], b"")).read()
    assert len(server.peers) == 1


@pytest.mark.parametrize("kept", [False, True], ids=["fresh", "kept"])
async def test_an_upstream_that_never_answers_is_given_up_and_not_asked_again(upstream, pool, kept):
    seen = []

    async def script(peer):
        while True:
            seen.append(await peer.request())
            if len(seen) > kept:
                await peer.gone()
                return
            peer.ok()

    to = pool(await upstream(script), silence_s=0.2)
    if kept:
        await (await to.request("POST", "/", [], b"")).read()
    async with asyncio.timeout(HANG_S):
        with pytest.raises(UpstreamSilentError, match="sent nothing for"):
            await to.request("POST", "/", [], b"")
    assert len(seen) == 1 + kept
    await soon(lambda: not to._all)


async def test_silence_within_an_answer_ends_it(upstream, pool):
    async def script(peer):
        await peer.request()
        peer.send(CHUNKED + b"3\r\nabc\r\n")
        await peer.gone()

    response = await pool(await upstream(script), silence_s=0.2).request("GET", "/", [], b"")
    assert await anext(response) == b"abc"
    async with asyncio.timeout(HANG_S):
        with pytest.raises(UpstreamSilentError) as caught:
            await anext(response)
    assert caught.value.response_started


async def test_an_answer_may_take_longer_than_the_longest_silence(upstream, pool):
    """Each piece is worth the wait for the next."""
    wanted = asyncio.Semaphore(0)

    async def script(peer):
        await peer.request()
        peer.send(CHUNKED)
        for _ in range(5):
            await wanted.acquire()
            peer.send(b"1\r\nx\r\n")
        peer.send(b"0\r\n\r\n")
        await peer.gone()

    to = pool(await upstream(script))
    response = await to.request("GET", "/", [], b"")
    (connection,) = to._all
    for _ in range(5):
        before = asyncio.get_running_loop().time()
        await asyncio.sleep(0.01)  # the clock goes on before the next piece comes
        wanted.release()
        assert await anext(response) == b"x"
        connection.expire(before)
    assert await response.read() == b""


async def test_unused_connections_are_not_silent(upstream, pool):
    server = await upstream(Counting())
    to = pool(server, silence_s=0.02)
    await (await to.request("GET", "/", [], b"")).read()
    for connection in to._all:
        connection.expire(asyncio.get_running_loop().time() + 1000.0)
    await (await to.request("GET", "/", [], b"")).read()
    assert len(server.peers) == 1


async def test_a_reader_that_lags_is_not_the_upstreams_silence(upstream, pool):
    total = 16 * 1024 * 1024

    async def script(peer):
        await peer.request()
        peer.send(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % total + bytes(total))
        await peer.gone()

    to = pool(await upstream(script))
    response = await to.request("GET", "/", [], b"")
    (connection,) = to._all
    await soon(lambda: connection._reading_paused)
    connection.expire(asyncio.get_running_loop().time() + 1000.0)
    assert len(await response.read()) == total
