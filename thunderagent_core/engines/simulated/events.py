"""KV cache events, with the field names and the encoding of vLLM 0.32 (``vllm/distributed/kv_events.py``).

The batch is a msgpack array ``[ts, events, data_parallel_rank]``; each event in it is a map whose ``type``
names its class, with default values left out. (Earlier vLLM releases wrote events as arrays too.)
"""

from __future__ import annotations

import msgspec


class BlockStored(msgspec.Struct, omit_defaults=True, frozen=True, gc=False, tag=True):
    """A run of blocks has become reusable. A second copy of a cached block is reported again: count them.

    Args:
        block_hashes: one 64-bit hash for each block, in prefix order.
        parent_block_hash: hash of the block before the first one; None at the start of a prompt.
        token_ids: the tokens in these blocks, ``block_size`` for each.
        block_size: tokens in one block.
        lora_id: always None here; vLLM sends it without a default.
        medium: where the blocks lie; always "GPU" here.
        lora_name: always None here; vLLM sends it without a default.
        extra_keys: None for each block: neither LoRA nor images nor salts are modelled.
        group_idx: KV cache group; one group here.
        kv_cache_spec_kind: kind of attention of that group.
        session_id: what the request sent as its session, None where it sent nothing.
    """

    block_hashes: list[int]
    parent_block_hash: int | None
    token_ids: list[int]
    block_size: int
    lora_id: int | None
    medium: str | None
    lora_name: str | None
    extra_keys: list[None] | None = None
    group_idx: int | None = None
    kv_cache_spec_kind: str | None = None
    session_id: str | None = None


class BlockRemoved(msgspec.Struct, omit_defaults=True, frozen=True, gc=False, tag=True):
    """One copy of each of these blocks has been evicted; vLLM sends one event for each block."""

    block_hashes: list[int]
    medium: str | None
    group_idx: int | None = None


class AllBlocksCleared(msgspec.Struct, omit_defaults=True, frozen=True, gc=False, tag=True):
    """The prefix cache was reset: nothing is reusable any more."""


KvEvent = BlockStored | BlockRemoved | AllBlocksCleared


class KvEventBatch(msgspec.Struct, array_like=True, omit_defaults=True, frozen=True, gc=False):
    """What one engine step, or one reset, did to the cache.

    Args:
        ts: wall clock when the batch was made, in seconds since 1970.
        events: in the order in which they happened.
        data_parallel_rank: the rank that speaks; 0 here.
    """

    ts: float
    events: list[KvEvent]
    data_parallel_rank: int | None = None
