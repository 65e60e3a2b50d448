"""KV events over real ZeroMQ sockets: frames, session ids, replay, and what they add up to."""

from __future__ import annotations

import asyncio
import base64
import json
from collections import Counter
from pathlib import Path

import httpx
import msgspec
import pytest
import zmq
import zmq.asyncio
from simulated_helpers import chat

from thunderagent_core.engines.simulated.engine import SimulatedEngine
from thunderagent_core.engines.simulated.events import AllBlocksCleared, BlockStored, KvEventBatch
from thunderagent_core.engines.simulated.publisher import END_OF_REPLAY

CHAT = "/v1/chat/completions"
RECORDED = Path(__file__).parent.parent / "recorded" / "vllm-0.32" / "kv_events.json"
ANYWHERE = {"kv_events_endpoint": "tcp://*:0", "kv_events_replay_endpoint": "tcp://*:0"}


@pytest.fixture
async def engine(settings):
    async with SimulatedEngine(settings(num_blocks=64, **ANYWHERE)) as engine:
        yield engine


@pytest.fixture
def context():
    context = zmq.asyncio.Context()
    yield context
    context.destroy(linger=0)


async def replay(context, engine, first=0):
    """All batches from ``first`` on, as (topic, sequence number, batch)."""
    batches = []
    with context.socket(zmq.DEALER) as socket:
        socket.connect(engine.publisher.sources()["0"]["replay_endpoint"])
        await socket.send_multipart((b"", first.to_bytes(8, "big")))
        while True:
            _, topic, number, payload = await socket.recv_multipart()
            if number == END_OF_REPLAY:
                assert (topic, payload) == (b"", b"")
                return batches
            batch = msgspec.msgpack.decode(payload, type=KvEventBatch)
            batches.append((topic, int.from_bytes(number, "big"), batch))


def add_up(batches):
    cached = Counter()
    for _, _, batch in batches:
        for event in batch.events:
            if isinstance(event, AllBlocksCleared):
                cached.clear()
            elif isinstance(event, BlockStored):
                cached.update(event.block_hashes)
            else:
                cached.subtract(event.block_hashes)
    return {digest for digest, copies in cached.items() if copies > 0}


async def test_events_carry_the_session_and_add_up_to_the_cache(engine, client, context):
    asked = [({"X-Session-ID": "header"}, {}), ({"X-Session-ID": "ignored"}, {"session_id": "body"})]
    asked += [({}, {"vllm_xargs": {"session_id": "arguments"}}), ({}, {})]
    for number, (headers, body) in enumerate(asked):
        await client.post(CHAT, json=chat(f"{number} " + "word " * 150, **body), headers=headers)
    await client.post("/v1/messages", json=chat("5 " + "word " * 150), headers={"X-Session-ID": "anthropic"})
    await client.post("/v1/responses", json={"input": "6 " + "word " * 150}, headers={"X-Session-ID": "responses"})
    batches = await replay(context, engine)
    assert {topic for topic, _, _ in batches} == {b"kv"}
    assert [number for _, number, _ in batches] == list(range(len(batches)))
    assert {batch.data_parallel_rank for _, _, batch in batches} == {0}
    events = [event for _, _, batch in batches for event in batch.events]
    sessions = dict.fromkeys(event.session_id for event in events if isinstance(event, BlockStored))
    assert list(sessions) == ["header", "body", "arguments", None, "anthropic", "responses"]
    assert any(not isinstance(event, BlockStored) for event in events), "the pool is too small for all"
    assert add_up(batches) == engine.model.pool.cached_hashes

    await client.post("/reset_prefix_cache")
    batches = await replay(context, engine)
    assert batches[-1][2].events == [AllBlocksCleared()]
    assert add_up(batches) == engine.model.pool.cached_hashes == set()


async def test_replay_begins_where_it_is_asked_to(engine, client, context):
    for number in range(3):
        await client.post(CHAT, json=chat(f"{number} " + "word " * 30))
    everything = await replay(context, engine)
    assert await replay(context, engine, first=2) == everything[2:]
    assert await replay(context, engine, first=10**6) == []


async def test_a_malformed_replay_request_is_ignored(engine, context):
    with context.socket(zmq.DEALER) as socket:
        socket.connect(engine.publisher.sources()["0"]["replay_endpoint"])
        await socket.send_multipart((b"too", b"many", b"frames"))
        assert await replay(context, engine) == []


async def test_only_the_last_batches_are_kept(settings, context):
    async with SimulatedEngine(settings(kv_events_buffer_steps=2, **ANYWHERE)) as engine:
        async with httpx.AsyncClient(base_url=engine.url, timeout=60) as client:
            for number in range(5):
                await client.post(CHAT, json=chat(f"{number} " + "word " * 30, max_tokens=1))
        assert [number for _, number, _ in await replay(context, engine)] == [3, 4]


@pytest.mark.parametrize("engine_binds", [True, False])
async def test_subscribers_receive_what_replay_tells(settings, context, engine_binds):
    with context.socket(zmq.SUB) as socket:
        socket.subscribe(b"kv")
        addresses = dict(ANYWHERE)
        if not engine_binds:
            addresses["kv_events_endpoint"] = f"tcp://127.0.0.1:{socket.bind_to_random_port('tcp://127.0.0.1')}"
        async with SimulatedEngine(settings(**addresses)) as engine:
            if engine_binds:
                socket.connect(engine.publisher.sources()["0"]["endpoint"])
            async with httpx.AsyncClient(base_url=engine.url, timeout=60) as client:
                number = 0
                while not await socket.poll(20):  # until the subscription has reached the engine
                    number += 1
                    await client.post(CHAT, json=chat(f"{number} " + "word " * 30), headers={"X-Session-ID": "s"})
                topic, sequence, payload = await socket.recv_multipart()
            first = int.from_bytes(sequence, "big")
            batch = msgspec.msgpack.decode(payload, type=KvEventBatch)
            assert (await replay(context, engine, first))[0] == (topic, first, batch)
            assert batch.events[0].session_id == "s"


async def test_sources_have_vllms_shape(engine, client):
    ours = (await client.get("/kv_event_sources")).json()
    recorded = json.loads(RECORDED.with_name("kv_event_sources.json").read_text())
    assert ours.keys() == recorded.keys()
    assert ours["0"].keys() == recorded["0"].keys()
    assert ours["0"]["endpoint"].startswith("tcp://127.0.0.1:")


def test_recorded_batches_of_vllm_are_read_and_written_byte_for_byte():
    for recorded in json.loads(RECORDED.read_text()):
        payload = base64.b64decode(recorded["payload_base64"])
        batch = msgspec.msgpack.decode(payload, type=KvEventBatch)
        assert batch.events
        assert msgspec.msgpack.encode(batch) == payload


async def test_an_address_in_use_is_an_error_at_the_start(settings, engine):
    endpoint = engine.publisher.sources()["0"]["endpoint"].replace("127.0.0.1", "*")
    with pytest.raises(zmq.ZMQError):
        await SimulatedEngine(settings(kv_events_endpoint=endpoint)).start()


async def test_many_events_arrive_in_order(engine, client, context):
    bodies = [chat(f"{number} " + "word " * 100) for number in range(50)]
    await asyncio.gather(*(client.post(CHAT, json=body) for body in bodies))
    batches = await replay(context, engine)
    assert [number for _, number, _ in batches] == list(range(len(batches)))
    assert add_up(batches) == engine.model.pool.cached_hashes
