"""Requests as the engine model sees them: token ids in, token ids out."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Sequence

    from thunderagent_core.engines.simulated.blocks import Block

FinishReason = Literal["stop", "length", "abort"]
"""Why a request ended; "abort" is never reported to a client, who has gone."""


class PromptTooLongError(ValueError):
    """The prompt leaves no room for a token of output in the model's context."""

    def __init__(self, prompt_tokens: int, max_model_len: int) -> None:
        super().__init__(f"prompt of {prompt_tokens} tokens, context of {max_model_len}")
        self.prompt_tokens = prompt_tokens
        self.max_model_len = max_model_len


class DuplicateRequestError(ValueError):
    """A request with this id has not ended yet."""


@dataclass(frozen=True, slots=True)
class EngineRequest:
    """One generation, decided beforehand: nothing is sampled here.

    Args:
        request_id: unique among the requests that have not ended.
        prompt: token ids.
        output: token ids to be generated, one for each step; at least one. Cut at the end of the context.
        finish_reason: what to report with the last token of ``output``.
        session_id: label for the KV events that the request causes.
    """

    request_id: str
    prompt: Sequence[int]
    output: Sequence[int]
    finish_reason: FinishReason = "length"
    session_id: str | None = None


@dataclass(frozen=True, slots=True)
class TokenOutput:
    """One generated token of one request.

    Args:
        request_id: whose token it is.
        index: its place in the output, from 0.
        token: its id.
        cached_tokens: prompt tokens that the prefix cache held when the request was first admitted.
        finish_reason: why the request has ended with this token, or None.
    """

    request_id: str
    index: int
    token: int
    cached_tokens: int
    finish_reason: FinishReason | None


@dataclass(slots=True, eq=False)
class RunningSequence:
    """Mutable state of a request inside the model.

    ``tokens`` are the prompt and what has been generated; ``computed`` of them are in the KV cache, in
    ``blocks``; ``stored`` of those blocks can be found in the prefix cache by their ``hashes``.
    """

    request: EngineRequest
    tokens: list[int]
    arrived_at: float
    hashes: list[int] = field(default_factory=list)
    blocks: list[Block] = field(default_factory=list)
    computed: int = 0
    stored: int = 0
    cached_tokens: int | None = None
    preemptions: int = 0

    @property
    def generated(self) -> int:
        """Tokens generated so far."""
        return len(self.tokens) - len(self.request.prompt)

    @property
    def missing(self) -> int:
        """Known tokens that are not in the KV cache yet."""
        return len(self.tokens) - self.computed

    @property
    def decoding(self) -> bool:
        """Whether only the token generated last is missing."""
        return self.missing == 1 and self.generated > 0

    def drop_blocks(self) -> list[Block]:
        """Forget all computed state and return the blocks that held it."""
        blocks, self.blocks = self.blocks, []
        self.computed = self.stored = 0
        return blocks
