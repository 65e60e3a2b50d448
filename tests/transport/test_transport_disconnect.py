"""Clients that leave, clients that lag, and a server that stops."""

from __future__ import annotations

import asyncio

import pytest
from transport_tools import HANG_S, RawClient, soon

GET = b"GET / HTTP/1.1\r\nhost: x\r\n\r\n"


class Held:
    """A handler that waits for ``go``, and knows how each of its calls ended."""

    def __init__(self, *, start=False):
        self.start = start
        self.entered = asyncio.Event()
        self.go = asyncio.Event()
        self.ends = []

    async def __call__(self, request, responder):
        if self.start:
            responder.start(200, [])
            responder.write(b"part")
        self.entered.set()
        try:
            await self.go.wait()
        except asyncio.CancelledError:
            self.ends.append("cancelled")
            responder.write(b"dropped") if self.start else responder.send(200, [], b"dropped")
            await responder.drain()
            raise
        if self.start:
            responder.finish()
        else:
            responder.send(200, [], b"done")
        self.ends.append("done")


async def entered(handler):
    async with asyncio.timeout(HANG_S):
        await handler.entered.wait()


async def close(client):
    await client.close()


async def reset(client):
    client.reset()


async def half_close(client):
    client.writer.write_eof()


async def pipeline_then_close(client):
    client.send(GET * 20)
    await client.close()


@pytest.mark.parametrize("start", [False, True], ids=["waiting", "streaming"])
@pytest.mark.parametrize("leave", [close, reset, half_close, pipeline_then_close])
async def test_a_client_that_leaves_cancels_its_handler(serve, connect, start, leave, caplog):
    handler = Held(start=start)
    server = await serve(handler)
    client = await connect(server)
    client.send(GET)
    await entered(handler)
    await leave(client)
    await soon(lambda: handler.ends == ["cancelled"])
    await soon(lambda: server.connections == 0)
    assert not caplog.records


async def test_leaving_after_the_answer_cancels_nothing(serve, connect):
    ends = []
    go_on = asyncio.Event()

    async def handler(request, responder):
        responder.send(200, [], b"done")
        await go_on.wait()
        ends.append("done")

    server = await serve(handler)
    client = await connect(server)
    client.send(GET)
    await client.answer()
    (connection,) = server._connections
    await client.close()
    await soon(lambda: connection._lost)
    assert server.connections == 1, "its handler runs on"
    go_on.set()
    await soon(lambda: ends == ["done"] and server.connections == 0)


async def test_a_handler_cancelled_by_others_breaks_its_connection(serve, connect):
    async def handler(request, responder):
        raise asyncio.CancelledError

    client = await connect(await serve(handler))
    client.send(GET)
    with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
        await client.answer()


class Flood:
    """A handler that sends ``total`` bytes as fast as the client takes them."""

    total = 64 * 1024 * 1024

    def __init__(self):
        self.written = 0
        self.blocked = asyncio.Event()

    async def __call__(self, request, responder):
        responder.start(200, [])
        while self.written < self.total:
            responder.write(bytes(65536))
            self.written += 65536
            draining = asyncio.get_running_loop().create_task(responder.drain())
            await asyncio.sleep(0)
            if not draining.done():
                self.blocked.set()
            await draining
        responder.finish()


async def test_a_slow_client_is_not_buffered_for(serve, connect):
    handler = Flood()
    client = await connect(await serve(handler), receive_buffer=65536)
    client.writer.transport.pause_reading()
    client.send(GET)
    async with asyncio.timeout(HANG_S):
        await handler.blocked.wait()
    assert handler.written < 32 * 1024 * 1024  # the kernel's buffers and one of ours
    client.writer.transport.resume_reading()
    assert len((await client.answer()).body) == Flood.total


async def test_answers_that_nobody_reads_stop_the_requests(serve, connect):
    answered = 0

    async def handler(request, responder):
        nonlocal answered
        answered += 1
        responder.send(200, [], bytes(1024 * 1024))

    server = await serve(handler)
    client = await connect(server, receive_buffer=65536)
    client.writer.transport.pause_reading()
    client.send(GET * 100)
    await soon(lambda: any(connection._writable is not None for connection in server._connections))
    for _ in range(200):  # what it might do wrongly, it would do now
        await asyncio.sleep(0)
    assert answered < 50
    client.writer.transport.resume_reading()
    for _ in range(100):
        assert len((await client.answer()).body) == 1024 * 1024


async def test_a_client_that_pipelines_too_much_behind_an_open_request_is_cut_off(serve, connect):
    """To stop reading instead would be to miss that it has gone."""
    handler = Held()
    server = await serve(handler, max_body_bytes=1 << 20)
    client = await connect(server)
    client.send(GET)
    await entered(handler)
    client.send(b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 1000000\r\n\r\n" + bytes(1_000_000))
    await soon(lambda: handler.ends == ["cancelled"])
    await soon(lambda: server.connections == 0)
    with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
        await client.answer()


async def test_leaving_is_noticed_behind_as_much_pipelined_input_as_is_held(serve, connect):
    handler = Held()
    server = await serve(handler)
    client = await connect(server)
    client.send(GET)
    await entered(handler)
    client.send(b"GET / HTTP/1.1\r\nhost: x\r\nx-long: " + b"x" * 60_000)
    (connection,) = server._connections
    await soon(lambda: len(connection._backlog) > 60_000)
    await client.close()
    await soon(lambda: handler.ends == ["cancelled"])


async def test_a_request_sent_before_the_last_answer_is_taken_is_answered(serve, connect):
    """Nobody waits for an engine then, so there is time to take the answer."""

    async def handler(request, responder):
        responder.send(200, [], bytes(16 * 1024 * 1024) if request.method == "GET" else request.body)

    client = await connect(await serve(handler), receive_buffer=65536)
    client.writer.transport.pause_reading()
    client.send(GET)
    client.send(b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 1000000\r\n\r\n" + bytes(1_000_000))
    for _ in range(200):
        await asyncio.sleep(0)
    client.writer.transport.resume_reading()
    assert len((await client.answer()).body) == 16 * 1024 * 1024
    assert len((await client.answer()).body) == 1_000_000


async def test_stopping_closes_idle_connections_and_refuses_new_ones(serve, connect):
    handler = Held()
    handler.go.set()
    server = await serve(handler)
    port = server.port
    idle = await connect(server)
    idle.send(GET)
    await idle.answer()
    await server.stop(HANG_S)
    assert await idle.rest() == b""
    with pytest.raises(ConnectionRefusedError):
        await RawClient.connect(port)


@pytest.mark.parametrize("start", [False, True], ids=["waiting", "streaming"])
async def test_stopping_lets_requests_under_way_finish(serve, connect, start):
    handler = Held(start=start)
    server = await serve(handler)
    client = await connect(server)
    client.send(GET + GET)
    await entered(handler)
    stopping = asyncio.get_running_loop().create_task(server.stop(HANG_S))
    await soon(lambda: server.stopping)
    for _ in range(20):  # what it might do wrongly, it would do now
        await asyncio.sleep(0)
    assert not stopping.done()
    handler.go.set()
    answer = await client.answer()
    assert answer.body == (b"part" if start else b"done")
    if not start:
        assert answer.headers["connection"] == "close"
        assert await client.rest() == b""
    await stopping
    assert handler.ends[0] == "done"


async def test_a_request_that_is_arriving_is_still_answered(serve, connect):
    handler = Held()
    handler.go.set()
    server = await serve(handler)
    client = await connect(server)
    client.send(b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\n\r\na")
    await soon(lambda: any(each._reader.receiving for each in server._connections))
    stopping = asyncio.get_running_loop().create_task(server.stop(HANG_S))
    await asyncio.sleep(0)
    client.send(b"b")
    assert (await client.answer()).headers["connection"] == "close"
    await stopping


async def test_what_is_left_incomplete_when_the_grace_ends_is_broken_off(serve, connect):
    handler = Held(start=True)
    server = await serve(handler)
    client = await connect(server)
    client.send(GET)
    await entered(handler)
    await server.stop(0.01)
    assert handler.ends == ["cancelled"]
    with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
        await client.answer()


async def test_an_answer_may_still_be_ended_when_the_grace_ends(serve, connect):
    """A stream says why it stops, and stops in good order."""
    entered = asyncio.Event()

    async def handler(request, responder):
        responder.start(200, [])
        responder.write(b"part")
        entered.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            responder.write(b", and why there is no more")
            responder.finish()
            raise

    server = await serve(handler)
    client = await connect(server)
    client.send(GET)
    async with asyncio.timeout(HANG_S):
        await entered.wait()
    await server.stop(0.01)
    assert (await client.answer()).body == b"part, and why there is no more"
    assert await client.rest() == b""


async def test_a_client_that_reads_nothing_does_not_hold_up_the_stop(serve, connect, monkeypatch):
    monkeypatch.setattr("thunderagent_core.transport.server._LAST_WORDS_S", 0.01)
    handler = Flood()
    server = await serve(handler)
    client = await connect(server, receive_buffer=65536)
    client.writer.transport.pause_reading()
    client.send(GET)
    async with asyncio.timeout(HANG_S):
        await handler.blocked.wait()
        await server.stop(0.01)
    assert server.connections == 0


async def test_stopping_also_cancels_what_runs_on_after_its_answer(serve, connect):
    cancelled = asyncio.Event()

    async def handler(request, responder):
        responder.send(200, [], b"done")
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.set()
            raise

    server = await serve(handler)
    client = await connect(server)
    client.send(GET)
    assert (await client.answer()).body == b"done"
    await server.stop(0.01)
    assert cancelled.is_set()


async def test_a_handler_that_does_not_end_is_reported(serve, connect, caplog, monkeypatch):
    monkeypatch.setattr("thunderagent_core.transport.server._CANCEL_S", 0.01)
    runs, go_on = asyncio.Event(), asyncio.Event()

    async def handler(request, responder):
        runs.set()
        while not go_on.is_set():
            try:
                await go_on.wait()
            except asyncio.CancelledError:
                continue
        responder.send(200, [], b"late")

    server = await serve(handler)
    client = await connect(server)
    client.send(GET)
    async with asyncio.timeout(HANG_S):
        await runs.wait()
    await server.stop(0.01)
    assert "did not end" in caplog.text
    go_on.set()
    await soon(lambda: server.connections == 0)
