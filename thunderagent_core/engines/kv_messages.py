"""What engines say about their KV cache: the events, and how they are encoded. Pure.

vLLM publishes frames ``topic, sequence number (8 bytes, big-endian), batch``; the batch is msgpack
``[timestamp, [event, …], data-parallel rank]``. Events are maps since vLLM 0.32 (``distributed/kv_events.py``)
and arrays in earlier releases and in SGLang, the first entry being the type. Fields that are not known here are
passed over; so are the contents of events whose type is not known.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from collections.abc import Sequence

BlockHash = int | bytes
"""Names a block by its content and all that precedes it; whether a number or bytes is the engine's setting."""


class BlockStored(msgspec.Struct, tag="BlockStored", frozen=True, gc=False):
    """Blocks that are in the cache from now on, in the order of the prompt.

    ``session_id`` is what the request that stored them sent as ``X-Session-ID``; other sessions may use them too.
    Blocks that a request finds in the cache are reported again only if it asks for that (``vllm_xargs``
    ``{"kv_cache_report_mode": "full"}``).

    Args:
        block_hashes: the blocks.
        parent_block_hash: the block before the first of them; None where they begin the prompt.
        token_ids: the tokens in them.
        block_size: tokens in one block.
        lora_id: adapter, superseded by ``lora_name``.
        medium: where they are: "GPU", "CPU", "STORAGE".
        lora_name: adapter.
        group_idx: the group of layers they belong to, in models with several kinds of attention.
        session_id: session of the request that stored them.
    """

    block_hashes: list[BlockHash]
    parent_block_hash: BlockHash | None = None
    token_ids: list[int] = []
    block_size: int = 0
    lora_id: int | None = None
    medium: str | None = None
    lora_name: str | None = None
    group_idx: int | None = None
    session_id: str | None = None


class BlockRemoved(msgspec.Struct, tag="BlockRemoved", frozen=True, gc=False):
    """Blocks that are no longer in the cache, with the medium and the group of layers they left."""

    block_hashes: list[BlockHash]
    medium: str | None = None
    group_idx: int | None = None


class AllBlocksCleared(msgspec.Struct, tag="AllBlocksCleared", frozen=True, gc=False):
    """The whole cache was emptied. vLLM says so with the next events, not at the time."""


@dataclass(frozen=True, slots=True)
class Resync:
    """Nothing that was known of this rank's cache is certain any more; what follows tells of it anew.

    Made here, not by the engine: the first event of each connection, and whenever events were lost.
    """

    reason: str


@dataclass(frozen=True, slots=True)
class UnknownEvent:
    """An event of a type that this code does not know."""

    type: str


KvEvent = BlockStored | BlockRemoved | AllBlocksCleared | Resync | UnknownEvent


@dataclass(frozen=True, slots=True)
class KvBatch:
    """Events that one scheduling step of an engine caused.

    Args:
        rank: data-parallel rank of the engine.
        sequence: number of the batch, counted by the engine from 0 since its start; -1 for batches made here.
        timestamp: when the engine made it, in seconds since the epoch.
        events: in the order in which they happened.
    """

    rank: int
    sequence: int
    timestamp: float
    events: Sequence[KvEvent]


class KvMessageError(ValueError):
    """The message is not a batch of KV events."""


class _Envelope(msgspec.Struct, array_like=True, gc=False):
    ts: float
    events: list[msgspec.Raw]
    data_parallel_rank: int | None = None


class _StoredArray(msgspec.Struct, tag="BlockStored", array_like=True, gc=False):
    block_hashes: list[BlockHash]
    parent_block_hash: BlockHash | None = None
    token_ids: list[int] = []
    block_size: int = 0
    lora_id: int | None = None
    medium: str | None = None


class _RemovedArray(msgspec.Struct, tag="BlockRemoved", array_like=True, gc=False):
    block_hashes: list[BlockHash]
    medium: str | None = None


class _ClearedArray(msgspec.Struct, tag="AllBlocksCleared", array_like=True, gc=False):
    pass


class KvDecoder:
    """Decodes batches. One for each connection: decoders are reused, but not shared between threads."""

    def __init__(self) -> None:
        self._envelope = msgspec.msgpack.Decoder(_Envelope)
        self._map = msgspec.msgpack.Decoder(BlockStored | BlockRemoved | AllBlocksCleared)
        self._array = msgspec.msgpack.Decoder(_StoredArray | _RemovedArray | _ClearedArray)

    def decode(self, frames: Sequence[bytes], rank: int) -> KvBatch:
        """Return the batch in a message; ``rank`` is that of the connection, used where the batch names none.

        Raises:
            KvMessageError: the message has another form.
        """
        sequence, payload = split_frames(frames)
        try:
            envelope = self._envelope.decode(payload)
            events = [self._event(raw) for raw in envelope.events]
        except msgspec.DecodeError as error:
            raise KvMessageError(f"batch {sequence} of rank {rank} cannot be read: {error}") from error
        named = envelope.data_parallel_rank
        return KvBatch(rank if named is None else named, sequence, envelope.ts, events)

    def _event(self, raw: msgspec.Raw) -> KvEvent:
        try:
            return self._map.decode(raw) if _is_map(raw) else _from_array(self._array.decode(raw))
        except msgspec.ValidationError:
            kind = _type_of(raw)
            if kind in {"BlockStored", "BlockRemoved", "AllBlocksCleared"}:
                raise
            return UnknownEvent(kind)


def split_frames(frames: Sequence[bytes]) -> tuple[int, bytes]:
    """Return the sequence number and the batch of a message ``topic, sequence, batch``.

    The number is negative where it marks the end of a replay.

    Raises:
        KvMessageError: the message has other frames.
    """
    if len(frames) != 3 or len(frames[1]) != 8:  # noqa: PLR2004 - topic, 8-byte sequence, batch
        raise KvMessageError(f"a message of {len(frames)} frames is not topic, sequence and batch")
    return int.from_bytes(frames[1], "big", signed=True), frames[2]


def _is_map(raw: msgspec.Raw) -> bool:
    first = memoryview(raw)[0]
    return 0x80 <= first <= 0x8F or first in {0xDE, 0xDF}  # noqa: PLR2004 - msgpack: fixmap, map 16, map 32


def _from_array(event: _StoredArray | _RemovedArray | _ClearedArray) -> KvEvent:
    if isinstance(event, _StoredArray):
        return BlockStored(
            event.block_hashes,
            event.parent_block_hash,
            event.token_ids,
            event.block_size,
            event.lora_id,
            event.medium,
        )
    return BlockRemoved(event.block_hashes, event.medium) if isinstance(event, _RemovedArray) else AllBlocksCleared()


def _type_of(raw: msgspec.Raw) -> str:
    content = msgspec.msgpack.decode(raw)
    kind = content.get("type") if isinstance(content, dict) else content[0] if content else None
    return str(kind)
