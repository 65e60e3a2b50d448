"""Counters with the meaning that vLLM's metrics of the same names have."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from thunderagent_core.engines.simulated.requests import FinishReason


@dataclass(slots=True)
class Statistics:
    """Totals since the engine's start.

    Args:
        prefix_cache_queries: prompt tokens looked up in the prefix cache when requests were first admitted.
            As in vLLM, the second look-up of a preempted request does not count.
        prefix_cache_hits: those of them that were found.
        preemptions: requests thrown back into the queue for lack of blocks.
        prompt_tokens: tokens of prompts whose prefill is complete, cached ones included.
        prompt_tokens_cached: those of them that came from the cache.
        generation_tokens: tokens generated.
        prefilled_tokens: tokens that prefill really computed, recomputation after preemption included.
        steps: engine steps completed.
        busy_s: engine time spent in steps, in seconds.
        finished: requests ended, by reason.
    """

    prefix_cache_queries: int = 0
    prefix_cache_hits: int = 0
    preemptions: int = 0
    prompt_tokens: int = 0
    prompt_tokens_cached: int = 0
    generation_tokens: int = 0
    prefilled_tokens: int = 0
    steps: int = 0
    busy_s: float = 0.0
    finished: dict[FinishReason, int] = field(default_factory=dict)

    @property
    def hit_rate(self) -> float:
        """Cached prompt tokens divided by prompt tokens looked up; 0 before the first request."""
        return self.prefix_cache_hits / self.prefix_cache_queries if self.prefix_cache_queries else 0.0

    def count_end(self, reason: FinishReason) -> None:
        """Count a request that has ended."""
        self.finished[reason] = self.finished.get(reason, 0) + 1
