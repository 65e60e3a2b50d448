"""Chained block hashes: a block's hash stands for its tokens and for everything before them."""

from __future__ import annotations

from hashlib import blake2b
from struct import pack
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

HASH_BYTES = 8


def chain_hash(parent: int | None, tokens: Sequence[int]) -> int:
    """Return the 64-bit hash of a full block; ``parent`` is None for the first block of a prompt."""
    digest = blake2b(digest_size=HASH_BYTES, key=b"thunderagent-sim")
    digest.update(b"" if parent is None else parent.to_bytes(HASH_BYTES, "big"))
    digest.update(pack(f">{len(tokens)}Q", *tokens))
    return int.from_bytes(digest.digest(), "big")


def extend_hashes(hashes: list[int], tokens: Sequence[int], block_tokens: int) -> None:
    """Append to ``hashes`` those of the blocks of ``tokens`` that have become full since."""
    for index in range(len(hashes), len(tokens) // block_tokens):
        parent = hashes[-1] if hashes else None
        hashes.append(chain_hash(parent, tokens[index * block_tokens : (index + 1) * block_tokens]))
