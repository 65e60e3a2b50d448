"""KV event messages: recorded ones of vLLM 0.32, and the array encoding of earlier releases and SGLang."""

from __future__ import annotations

import base64

import msgspec
import pytest
from engine_helpers import recorded_batches, stored

from thunderagent_core.engines.kv_messages import (
    AllBlocksCleared,
    BlockRemoved,
    BlockStored,
    KvDecoder,
    KvMessageError,
    UnknownEvent,
)


def message(*events, rank=0, sequence=7):
    payload = msgspec.msgpack.encode([1.5, list(events), rank])
    return [b"kv", sequence.to_bytes(8, "big"), payload]


def decoded(*events):
    return KvDecoder().decode(message(*events), rank=0).events


@pytest.mark.parametrize("recorded", recorded_batches(), ids=lambda batch: str(batch["sequence"]))
def test_recorded_batches(recorded):
    frames = [
        recorded["topic"].encode(),
        recorded["sequence"].to_bytes(8, "big"),
        base64.b64decode(recorded["payload_base64"]),
    ]
    batch = KvDecoder().decode(frames, rank=5)
    timestamp, events, rank = recorded["decoded"]
    assert (batch.rank, batch.sequence, batch.timestamp) == (rank, recorded["sequence"], timestamp)
    for event, raw in zip(batch.events, events, strict=True):
        assert type(event).__name__ == raw["type"]
        for field in getattr(event, "__struct_fields__", ()):
            assert getattr(event, field) == raw.get(field)


def test_the_recording_has_each_kind_of_event():
    kinds = {event["type"] for batch in recorded_batches() for event in batch["decoded"][1]}
    assert kinds == {"BlockStored", "BlockRemoved", "AllBlocksCleared"}
    sessions = {event.get("session_id") for batch in recorded_batches() for event in batch["decoded"][1]}
    assert {"program-a", None} <= sessions


def test_arrays():
    events = decoded(
        ["BlockStored", [1, 2], None, [5, 6], 1, None, "GPU", "adapter", "of the future"],
        ["BlockStored", [b"\x01\x02"], b"\x00", [5], 1],
        ["BlockRemoved", [1], "GPU"],
        ["BlockRemoved", [2]],
        ["AllBlocksCleared"],
    )
    assert events == [
        BlockStored([1, 2], None, [5, 6], 1, None, "GPU"),
        BlockStored([b"\x01\x02"], b"\x00", [5], 1),
        BlockRemoved([1], "GPU"),
        BlockRemoved([2]),
        AllBlocksCleared(),
    ]


def test_maps_with_fields_of_the_future():
    (event,) = decoded(stored(1, 2, session="s"))
    assert event == BlockStored([1, 2], None, list(range(8)), 4, medium="GPU", session_id="s")


def test_a_map_of_many_fields():
    """More than 15 fields make msgpack use its 16-bit map header."""
    (event,) = decoded(stored(1) | {f"field{n}": n for n in range(20)})
    assert event.block_hashes == [1]


def test_events_of_the_future_are_passed_over():
    events = decoded({"type": "BlockMoved", "to": "CPU"}, ["BlockPinned", 3], stored(1), [], {})
    assert events[0] == UnknownEvent("BlockMoved")
    assert events[1] == UnknownEvent("BlockPinned")
    assert events[2].block_hashes == [1]
    assert [event.type for event in events[3:]] == ["None", "None"]


@pytest.mark.parametrize(("named", "rank"), [(3, 3), (0, 0), (None, 9)])
def test_the_rank_is_the_batch_s_own_where_it_names_one(named, rank):
    assert KvDecoder().decode(message(rank=named), rank=9).rank == rank


@pytest.mark.parametrize(
    "frames",
    [
        [b"kv", b"short", b""],
        [b"kv", bytes(8)],
        [b"kv", bytes(8), b"\xc1"],
        [b"kv", bytes(8), msgspec.msgpack.encode({"ts": 1})],
        [b"kv", bytes(8), msgspec.msgpack.encode([1.0, [{"type": "BlockStored"}], 0])],
        [b"kv", bytes(8), msgspec.msgpack.encode([1.0, [["BlockRemoved", "x"]], 0])],
    ],
)
def test_other_messages_are_an_error(frames):
    with pytest.raises(KvMessageError):
        KvDecoder().decode(frames, rank=0)
