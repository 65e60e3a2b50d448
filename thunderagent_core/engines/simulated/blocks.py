"""The KV pool: blocks, reference counts, the prefix cache, and vLLM's order of eviction.

Follows ``vllm/v1/core/block_pool.py`` of vLLM 0.32: free blocks wait in one queue and are reused from its
head. A freed block with cached content goes to the tail, one without goes back to the head. A request hands
its blocks back last block first, so the tail of a prefix is evicted before its beginning. Block 0 is never
handed out.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING

from thunderagent_core.engines.simulated.events import AllBlocksCleared, BlockRemoved, BlockStored, KvEvent

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

MEDIUM = "GPU"
GROUP = 0
SPEC_KIND = "full_attention"


class Block:
    """Room for one block of keys and values; ``digest`` is the chained hash of its content once full."""

    __slots__ = ("digest", "index", "references")

    def __init__(self, index: int) -> None:
        self.index = index
        self.references = 0
        self.digest: int | None = None

    def __repr__(self) -> str:
        return f"Block({self.index}, references={self.references}, digest={self.digest})"


class BlockPool:
    """All blocks of one engine, their references and their reusable content.

    Args:
        num_blocks: blocks in the pool, the reserved block 0 included, as vLLM counts them.
        block_tokens: tokens in one block.
        record_events: whether to keep KV events for ``take_events``.
    """

    def __init__(self, num_blocks: int, block_tokens: int, *, record_events: bool = False) -> None:
        if num_blocks < 2:  # noqa: PLR2004 - one block is reserved, one must be left
            raise ValueError("a pool needs at least 2 blocks: the first is reserved")
        self.num_blocks = num_blocks
        self.block_tokens = block_tokens
        self._blocks = [Block(index) for index in range(num_blocks)]
        self._free = OrderedDict((block.index, block) for block in self._blocks[1:])
        self._cached: dict[int, dict[int, Block]] = {}
        self._record_events = record_events
        self._events: list[KvEvent] = []

    @property
    def usable_blocks(self) -> int:
        """Blocks that requests can hold."""
        return self.num_blocks - 1

    @property
    def free_blocks(self) -> int:
        """Blocks that no request holds, cached content or not."""
        return len(self._free)

    @property
    def used_blocks(self) -> int:
        """Blocks that at least one request holds."""
        return self.usable_blocks - self.free_blocks

    @property
    def usage(self) -> float:
        """Share of the pool that requests hold, 0 to 1."""
        return self.used_blocks / self.usable_blocks

    @property
    def cached_hashes(self) -> frozenset[int]:
        """Hashes of all blocks that a new request could reuse."""
        return frozenset(self._cached)

    def find_prefix(self, hashes: Sequence[int], at_most: int) -> list[Block]:
        """Return cached blocks for the longest prefix of ``hashes``, at most ``at_most`` of them."""
        found: list[Block] = []
        for digest in hashes[:at_most]:
            copies = self._cached.get(digest)
            if copies is None:
                break
            found.append(next(iter(copies.values())))
        return found

    def blocks_taken_by(self, new_blocks: int, reused: Iterable[Block]) -> int:
        """Return by how many blocks the free queue shrinks when these are allocated and those reused."""
        return new_blocks + sum(block.references == 0 for block in reused)

    def touch(self, blocks: Iterable[Block]) -> None:
        """Hold cached blocks for one more request."""
        for block in blocks:
            if block.references == 0:
                del self._free[block.index]
            block.references += 1

    def allocate(self, count: int) -> list[Block]:
        """Take ``count`` blocks from the head of the free queue; what they cached is evicted.

        Raises ValueError where fewer are free.
        """
        if count > len(self._free):
            raise ValueError(f"{count} blocks asked for, {len(self._free)} free")
        taken = [self._free.popitem(last=False)[1] for _ in range(count)]
        for block in taken:
            self._evict(block)
            block.references = 1
        return taken

    def store(
        self,
        blocks: Sequence[Block],
        hashes: Sequence[int],
        parent: int | None,
        tokens: Sequence[int],
        session_id: str | None,
    ) -> None:
        """Make full blocks reusable under their hashes and report them; a copy may already be cached."""
        for block, digest in zip(blocks, hashes, strict=True):
            block.digest = digest
            self._cached.setdefault(digest, {})[block.index] = block
        if self._record_events:
            stored = BlockStored(
                block_hashes=list(hashes),
                parent_block_hash=parent,
                token_ids=list(tokens),
                block_size=self.block_tokens,
                lora_id=None,
                medium=MEDIUM,
                lora_name=None,
                extra_keys=[None] * len(blocks),
                group_idx=GROUP,
                kv_cache_spec_kind=SPEC_KIND,
                session_id=session_id,
            )
            self._events.append(stored)

    def free(self, blocks: Sequence[Block]) -> None:
        """Give up one reference to each block of a request, given in prefix order."""
        uncached: list[Block] = []
        for block in reversed(blocks):
            block.references -= 1
            if block.references > 0:
                continue
            if block.digest is None:
                uncached.append(block)
            else:
                self._free[block.index] = block
        for block in reversed(uncached):
            self._free[block.index] = block
            self._free.move_to_end(block.index, last=False)

    def reset(self) -> bool:
        """Forget all cached content; refused (False) while a request holds blocks, as in vLLM."""
        if self.used_blocks:
            return False
        self._cached.clear()
        for block in self._blocks:
            block.digest = None
        if self._record_events:
            self._events.append(AllBlocksCleared())
        return True

    def take_events(self) -> list[KvEvent]:
        """Return the events since the last call, oldest first."""
        events, self._events = self._events, []
        return events

    def check(self) -> None:
        """Raise AssertionError where the pool contradicts itself."""
        for block in self._blocks[1:]:
            free = block.index in self._free
            if block.references < 0 or free != (block.references == 0):
                raise AssertionError(f"{block} is {'free' if free else 'not free'}")
            if block.digest is not None and block.index not in self._cached.get(block.digest, {}):
                raise AssertionError(f"{block} has a hash but cannot be found by it")
        if sum(map(len, self._cached.values())) != sum(b.digest is not None for b in self._blocks):
            raise AssertionError("the cache index holds blocks without that content")

    def _evict(self, block: Block) -> None:
        if block.digest is None:
            return
        copies = self._cached[block.digest]
        del copies[block.index]
        if not copies:
            del self._cached[block.digest]
        if self._record_events:
            self._events.append(BlockRemoved(block_hashes=[block.digest], medium=MEDIUM, group_idx=GROUP))
        block.digest = None
