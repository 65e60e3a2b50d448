"""What the server needs to know of an LLM engine, whichever it is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol


class EngineError(Exception):
    """The engine could not be asked: unreachable, too slow, or it answered something that is not metrics.

    ``refused`` tells that nobody listens at its address, which is certain; a time-out may only mean that it is busy.
    """

    def __init__(self, message: str, *, refused: bool = False) -> None:
        super().__init__(message)
        self.refused = refused


@dataclass(frozen=True, slots=True)
class EngineSample:
    """One look at an engine. Data-parallel ranks are added up; counters are totals since the engine's start.

    Args:
        capacity_tokens: size of the KV pool in tokens, over all ranks; None where the engine does not tell.
        block_tokens: tokens in one KV block; None where the engine does not tell.
        kv_usage: share of the KV pool that running requests hold, 0 to 1.
        running: requests being decoded or prefilled.
        waiting: requests in the engine's own queue.
        prompt_tokens: counter, prompt tokens looked up in the prefix cache.
        cached_tokens: counter, prompt tokens found there.
        preemptions: counter, requests thrown back into the engine's queue for lack of memory.
        ranks: number of data-parallel ranks seen.
        max_model_len: longest context the engine accepts, in tokens; None where unknown.
        models: names the engine serves.
    """

    capacity_tokens: int | None
    block_tokens: int | None
    kv_usage: float
    running: int
    waiting: int
    prompt_tokens: int
    cached_tokens: int
    preemptions: int
    ranks: int
    max_model_len: int | None = None
    models: tuple[str, ...] = ()


class EngineClient(Protocol):
    """Reads one engine's state. Requests do not pass here: they are forwarded by the server."""

    url: str
    kind: str
    """Name of the engine: ``vllm``, ``sglang``."""

    async def sample(self) -> EngineSample:
        """Ask the engine once. Raises EngineError; bounded by the client's own time-out."""
        ...

    async def aclose(self) -> None:
        """Close connections."""
        ...
