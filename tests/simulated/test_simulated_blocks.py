"""The block pool tells vLLM's story: who is evicted, in which order, and what is reported."""

from __future__ import annotations

import pytest

from thunderagent_core.engines.simulated.blocks import BlockPool
from thunderagent_core.engines.simulated.events import AllBlocksCleared, BlockRemoved, BlockStored
from thunderagent_core.engines.simulated.hashing import extend_hashes

SIZE = 2


def hashes_of(*tokens: int) -> list[int]:
    hashes: list[int] = []
    extend_hashes(hashes, tokens, SIZE)
    return hashes


def fill(pool: BlockPool, *tokens: int):
    """Cache a prompt of whole blocks and hand its blocks back."""
    hashes = hashes_of(*tokens)
    blocks = pool.allocate(len(hashes))
    pool.store(blocks, hashes, None, tokens, "s")
    pool.free(blocks)
    return hashes


def test_a_block_is_found_only_behind_its_prefix():
    assert hashes_of(1, 2, 3, 4)[1] != hashes_of(9, 9, 3, 4)[1]
    assert hashes_of(1, 2, 3, 4) == hashes_of(1, 2, 3, 4, 5)


def test_the_tail_of_a_prefix_is_evicted_before_its_beginning():
    pool = BlockPool(4, SIZE, record_events=True)
    first, second, third = fill(pool, 1, 2, 3, 4, 5, 6)
    pool.take_events()
    pool.allocate(2)
    assert pool.take_events() == [
        BlockRemoved(block_hashes=[third], medium="GPU", group_idx=0),
        BlockRemoved(block_hashes=[second], medium="GPU", group_idx=0),
    ]
    assert pool.cached_hashes == {first}
    pool.check()


def test_the_least_recently_used_prompt_goes_first_and_empty_blocks_before_it():
    pool = BlockPool(6, SIZE)
    old = fill(pool, 1, 2, 3, 4)
    new = fill(pool, 5, 6, 7, 8)
    scratch = pool.allocate(1)
    pool.free(scratch)
    assert pool.allocate(1) == scratch, "a block without content is reused first"
    pool.touch(pool.find_prefix(old, 2))
    pool.free(pool.find_prefix(old, 2))
    pool.allocate(2)
    assert pool.cached_hashes == set(old), f"{new} was used longest ago"
    pool.check()


def test_a_shared_block_is_free_only_when_the_last_request_lets_go():
    pool = BlockPool(3, SIZE)
    hashes = fill(pool, 1, 2)
    shared = pool.find_prefix(hashes, 1)
    pool.touch(shared)
    pool.touch(shared)
    assert (pool.free_blocks, pool.used_blocks, pool.usage) == (1, 1, 0.5)
    pool.free(shared)
    assert pool.free_blocks == 1
    pool.free(shared)
    assert pool.free_blocks == 2
    pool.check()


def test_a_second_copy_is_reported_again_and_the_first_stays_when_it_goes():
    pool = BlockPool(5, SIZE, record_events=True)
    hashes = fill(pool, 1, 2)
    copy = pool.allocate(1)
    pool.store(copy, hashes, None, (1, 2), "t")
    stored = [event for event in pool.take_events() if isinstance(event, BlockStored)]
    assert [(event.block_hashes, event.session_id) for event in stored] == [(hashes, "s"), (hashes, "t")]
    pool.check()
    pool.free(copy)
    pool.allocate(3)
    assert pool.take_events() == [BlockRemoved(block_hashes=hashes, medium="GPU", group_idx=0)]
    assert pool.cached_hashes == set(hashes)


def test_stored_blocks_tell_their_tokens_and_their_parent():
    pool = BlockPool(5, SIZE, record_events=True)
    hashes = hashes_of(1, 2, 3, 4)
    blocks = pool.allocate(2)
    pool.store(blocks[1:], hashes[1:], hashes[0], (3, 4), None)
    (event,) = pool.take_events()
    assert isinstance(event, BlockStored)
    assert (event.parent_block_hash, event.token_ids, event.block_size) == (hashes[0], [3, 4], SIZE)
    assert (event.medium, event.session_id, event.extra_keys) == ("GPU", None, [None])


def test_reset_is_refused_while_blocks_are_held():
    pool = BlockPool(4, SIZE, record_events=True)
    fill(pool, 1, 2, 3, 4)
    held = pool.allocate(1)
    assert not pool.reset()
    pool.free(held)
    pool.take_events()
    assert pool.reset()
    assert pool.take_events() == [AllBlocksCleared()]
    assert not pool.cached_hashes
    pool.check()


def test_more_than_is_free_cannot_be_taken_and_one_block_is_reserved():
    pool = BlockPool(4, SIZE)
    assert pool.usable_blocks == 3
    with pytest.raises(ValueError, match="4 blocks asked for, 3 free"):
        pool.allocate(4)
    with pytest.raises(ValueError, match="at least 2"):
        BlockPool(1, SIZE)
