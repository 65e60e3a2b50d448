"""The sizes of an engine, checked as vLLM checks them at its start."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class EngineLimits:
    """Sizes of an engine, named as vLLM's options are.

    Args:
        num_blocks: blocks of the KV pool; one of them is reserved, as in vLLM.
        block_tokens: tokens in a block (``--block-size``).
        max_model_len: longest prompt and output together, in tokens; at most what the pool holds.
        max_num_seqs: requests that run at once.
        max_num_batched_tokens: tokens computed in one step.

    Raises:
        ValueError: the sizes contradict each other; vLLM would not start either.
    """

    num_blocks: int
    block_tokens: int
    max_model_len: int
    max_num_seqs: int = 256
    max_num_batched_tokens: int = 2048

    def __post_init__(self) -> None:
        for name in ("num_blocks", "block_tokens", "max_model_len", "max_num_seqs", "max_num_batched_tokens"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.max_model_len > self.usable_tokens:
            raise ValueError(
                f"max_model_len ({self.max_model_len}) must not exceed the {self.usable_tokens} tokens that "
                f"{self.num_blocks} blocks of {self.block_tokens} can hold (one block is reserved)"
            )
        if self.max_num_batched_tokens < self.max_num_seqs:
            raise ValueError(
                f"max_num_batched_tokens ({self.max_num_batched_tokens}) must not be less than "
                f"max_num_seqs ({self.max_num_seqs})"
            )

    @property
    def usable_tokens(self) -> int:
        """Tokens that requests can hold at once."""
        return (self.num_blocks - 1) * self.block_tokens
