"""The KV event source against a publisher that speaks vLLM's protocol over real ZeroMQ sockets."""

from __future__ import annotations

import asyncio
import socket

import httpx
import pytest
from engine_helpers import Answers, Publisher, stored

from thunderagent_core.engines.kv_events import KvEventsOffError, KvEventSource, read_sources
from thunderagent_core.engines.kv_messages import AllBlocksCleared, BlockRemoved, BlockStored, KvBatch, Resync
from thunderagent_core.engines.kv_subscription import KvAddress, reachable
from thunderagent_core.engines.simulated.engine import SimulatedEngine
from thunderagent_core.engines.simulated.settings import EngineSettings

ENGINE = "http://127.0.0.1:8000"

HANG_S = 60.0
"""Bounds waits for what must happen; only a failing test ever waits this long."""


@pytest.fixture
async def publish():
    """Make publishers that are closed at the end."""
    made: list[Publisher] = []

    async def make(**settings) -> Publisher:
        made.append(Publisher(**settings))
        return made[-1]

    yield make
    for publisher in made:
        await publisher.close()


def answers(*publishers: Publisher) -> Answers:
    return Answers(kv_event_sources={str(p.rank): p.source() for p in publishers})


def following(transport: Answers, **settings) -> KvEventSource:
    """Follow the engine behind ``transport``, patiently."""
    return KvEventSource(ENGINE, transport=transport, timeout_s=HANG_S, **settings)


def hashes(batch: KvBatch) -> list[int]:
    return [h for event in batch.events if isinstance(event, BlockStored) for h in event.block_hashes]


async def take(source: KvEventSource, count: int) -> list[KvBatch]:
    return [await anext(source) for _ in range(count)]


async def after_resync(source: KvEventSource, count: int) -> list[list[int]]:
    """Take a Resync and ``count`` batches; return the batches' hashes."""
    first, *rest = await take(source, 1 + count)
    assert [type(event) for event in first.events] == [Resync]
    assert first.sequence == -1
    return [hashes(batch) for batch in rest]


async def test_history_then_live(publish):
    """What happened before the connection is replayed, so the cache's whole content is known."""
    publisher = await publish()
    await publisher.publish(stored(1, 2, session="a"))
    await publisher.publish(stored(3))
    async with following(answers(publisher)) as source:
        assert await after_resync(source, 2) == [[1, 2], [3]]
        await publisher.subscribed()
        await publisher.publish({"type": "BlockRemoved", "block_hashes": [1], "medium": "GPU"})
        await publisher.publish({"type": "AllBlocksCleared"}, stored(4, session="b"))
        removed, cleared = await take(source, 2)
    assert removed == KvBatch(0, 2, 2.0, [BlockRemoved([1], "GPU")])
    assert isinstance(cleared.events[0], AllBlocksCleared)
    assert cleared.events[1].session_id == "b"


async def test_a_gap_is_filled_by_replay(publish):
    publisher = await publish()
    async with following(answers(publisher)) as source:
        await publisher.publish(stored(0))
        assert await after_resync(source, 1) == [[0]]
        await publisher.subscribed()
        await publisher.publish(stored(1), lost=True)
        await publisher.publish(stored(2), lost=True)
        await publisher.publish(stored(3))
        batches = await take(source, 3)
    assert [batch.sequence for batch in batches] == [1, 2, 3]
    assert [hashes(batch) for batch in batches] == [[1], [2], [3]]


async def test_a_gap_that_the_engine_forgot_is_said(publish):
    publisher = await publish(keep=2)
    async with following(answers(publisher)) as source:
        await publisher.publish(stored(0))
        assert await after_resync(source, 1) == [[0]]
        await publisher.subscribed()
        for number in (1, 2, 3):
            await publisher.publish(stored(number), lost=True)
        await publisher.publish(stored(4))
        resync, *rest = await take(source, 3)
    assert resync.events == [Resync("batches 1 to 2 are lost")]
    assert [hashes(batch) for batch in rest] == [[3], [4]]


async def test_a_gap_without_replay_is_said(publish):
    publisher = await publish(replay=None)
    async with following(answers(publisher)) as source:
        first = asyncio.ensure_future(anext(source))
        await publisher.subscribed()
        await publisher.publish(stored(0))
        await first
        assert hashes(await anext(source)) == [0]
        await publisher.publish(stored(1), lost=True)
        await publisher.publish(stored(2))
        resync, live = await take(source, 2)
    assert resync.events == [Resync("batches 1 to 1 are lost")]
    assert hashes(live) == [2]


async def test_joining_late_without_replay(publish):
    """The first batch may have any number; nothing was known before, so nothing is lost."""
    publisher = await publish(replay=None)
    for number in range(5):
        await publisher.publish(stored(number))
    async with following(answers(publisher)) as source:
        first = asyncio.ensure_future(anext(source))
        await publisher.subscribed()
        await publisher.publish(stored(5))
        assert (await first).events == [Resync("connected")]
        assert (await anext(source)).sequence == 5


async def test_an_engine_that_connects(publish):
    """With a fixed address the engine connects, so we bind; its report looks like that of one that bound."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    publisher = await publish(endpoint=f"tcp://127.0.0.1:{port}", bind=False)
    async with following(answers(publisher)) as source:
        first = asyncio.ensure_future(anext(source))
        await publisher.subscribed()
        assert (await first).events == [Resync("connected")]
        await publisher.publish(stored(1))
        assert hashes(await anext(source)) == [1]


@pytest.mark.parametrize("same_port", [True, False])
async def test_the_engine_restarts(publish, same_port):
    old = await publish()
    table = answers(old)
    async with following(table) as source:
        await old.publish(stored(1))
        await old.publish(stored(2))
        assert await after_resync(source, 2) == [[1], [2]]
        await old.close()
        new = await publish(**({"endpoint": old.endpoint} if same_port else {}))
        table.pages = answers(new).pages
        for number in (10, 11, 12):
            await new.publish(stored(number))
        assert await after_resync(source, 3) == [[10], [11], [12]]


async def test_sequence_numbers_that_begin_again(publish):
    """An engine may restart behind a proxy that keeps the connection."""
    publisher = await publish()
    async with following(answers(publisher)) as source:
        await publisher.publish(stored(1))
        await publisher.publish(stored(2))
        assert await after_resync(source, 2) == [[1], [2]]
        await publisher.subscribed()
        await publisher.publish(stored(3))
        assert hashes(await anext(source)) == [3]
        publisher.sequence = 0
        publisher.buffer.clear()
        await publisher.publish(stored(20))
        assert await after_resync(source, 1) == [[20]]


async def test_two_ranks(publish):
    one, other = await publish(rank=0), await publish(rank=1)
    await one.publish(stored(1))
    await other.publish(stored(2))
    async with following(answers(one, other)) as source:
        batches = await take(source, 4)
    by_rank = {rank: [hashes(batch) for batch in batches if batch.rank == rank] for rank in (0, 1)}
    assert by_rank == {0: [[], [1]], 1: [[], [2]]}


async def test_messages_of_another_form_are_passed_over(publish):
    publisher = await publish()
    async with following(answers(publisher)) as source:
        await publisher.publish(stored(0))
        assert await after_resync(source, 1) == [[0]]
        await publisher.subscribed()
        await publisher.send_raw(b"kv", b"what?")
        await publisher.send_raw(b"kv", (1).to_bytes(8, "big"), b"\xc1")
        publisher.sequence = 2
        await publisher.publish(stored(2))
        unreadable, live = await take(source, 2)
    assert "cannot be read" in unreadable.events[0].reason
    assert hashes(live) == [2]


async def test_a_slow_consumer_is_waited_for(publish):
    """Batches wait in a bounded queue; whatever overflows further down is found again by replay."""
    total = 3_000
    publisher = await publish(keep=total)
    for number in range(total):
        await publisher.publish(stored(number))
    async with KvEventSource(ENGINE, transport=answers(publisher)) as source:
        await anext(source)
        assert [hashes(batch) for batch in await take(source, total)] == [[number] for number in range(total)]


async def test_an_engine_that_is_not_there_yet(publish):
    table = Answers(kv_event_sources=503)
    async with following(table) as source:
        first = asyncio.ensure_future(anext(source))
        await table.was_asked.wait()
        table.pages = answers(await publish()).pages
        assert (await first).events == [Resync("connected")]


async def test_the_simulated_engine():
    """The engine that stands in for vLLM elsewhere speaks the same protocol."""
    settings = EngineSettings(
        port=0, model="sim", kv_events_endpoint="tcp://*:0", kv_events_replay_endpoint="tcp://*:0"
    )
    async with SimulatedEngine(settings) as engine, KvEventSource(engine.url, timeout_s=HANG_S) as source:
        assert (await anext(source)).events == [Resync("connected")]
        batch, number = asyncio.ensure_future(anext(source)), 0
        async with httpx.AsyncClient(base_url=engine.url, timeout=HANG_S) as client:
            while not batch.done():  # what was published before the subscription arrived is missed until the next
                number += 1
                message = {"role": "user", "content": f"{number} " + "word " * 100}
                body = {"model": "sim", "messages": [message], "max_tokens": 1}
                await client.post("/v1/chat/completions", json=body, headers={"X-Session-ID": "program-1"})
                await asyncio.wait({batch}, timeout=1)
    assert {event.session_id for event in batch.result().events} == {"program-1"}


async def test_addresses_given_by_hand(publish):
    publisher = await publish()
    addresses = {0: KvAddress(publisher.endpoint, "kv", publisher.replay_endpoint)}
    table = Answers()
    async with following(table, addresses=addresses) as source:
        await publisher.publish(stored(1))
        assert await after_resync(source, 1) == [[1]]
    assert not table.asked


@pytest.mark.parametrize(
    ("page", "sentence"),
    [
        ({}, "publishes no KV events: start vLLM with --kv-events-config"),
        ({"0": {"publisher": "null", "endpoint": "tcp://*:5557"}}, "publishes no KV events"),
        (404, r"does not tell where it publishes KV events \(vLLM does since 0.32\)"),
    ],
)
async def test_engines_without_events(page, sentence):
    async with following(Answers(kv_event_sources=page)) as source:
        with pytest.raises(KvEventsOffError, match=sentence):
            await anext(source)
        with pytest.raises(StopAsyncIteration):
            await anext(source)


async def test_closing_before_anything_happened():
    source = following(Answers())
    await source.aclose()
    await source.aclose()


def test_sources_as_vllm_lists_them():
    source = {"publisher": "zmq", "endpoint": "tcp://*:5557", "topic": "kv", "replay_endpoint": None}
    assert read_sources({"0": source, "1": {**source, "endpoint": "tcp://*:5558"}}) == {
        0: KvAddress("tcp://*:5557", "kv"),
        1: KvAddress("tcp://*:5558", "kv"),
    }


@pytest.mark.parametrize(
    ("endpoint", "seen"),
    [
        ("tcp://*:5557", ("tcp://gpu-3:5557", False)),
        ("tcp://0.0.0.0:5557", ("tcp://gpu-3:5557", False)),
        ("tcp://[::]:5557", ("tcp://gpu-3:5557", False)),
        ("tcp://10.0.0.7:5557", ("tcp://10.0.0.7:5557", True)),
        ("ipc:///run/kv", ("ipc:///run/kv", False)),
    ],
)
def test_addresses_as_seen_from_here(endpoint, seen):
    assert reachable(endpoint, "gpu-3") == seen
