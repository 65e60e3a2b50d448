"""Text to tokens before the engine has told us: measured characters per token, per program and per model."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from thunderagent_core.scheduling.events import RequestArrived
    from thunderagent_core.scheduling.program import Program

DEFAULT_CHARS_PER_TOKEN = 4.0
"""English prose and code under today's tokenizers lie between 3 and 5."""

_SMOOTHING = 0.1
"""Share of the newest measurement in a model's running mean."""

_UNMEASURED_SLACK = 2.0
"""An estimate without any measurement may be too high by this factor."""

_MEASURED_SLACK = 1.25
"""The same for an estimate from a measured ratio: new text may be denser than the old."""


class TokenEstimator:
    """Learns how many characters make a token from the usage that engines report."""

    __slots__ = ("_models",)

    def __init__(self) -> None:
        self._models: dict[str | None, float] = {}

    def chars_per_token(self, model: str | None) -> float:
        """Return the measured ratio of ``model``, else the default."""
        return self._models.get(model, DEFAULT_CHARS_PER_TOKEN)

    def estimate(self, event: RequestArrived, program: Program | None) -> int:
        """Return the likely prompt length in tokens; exact where the client sent token ids."""
        if event.prompt_tokens is not None:
            return max(1, event.prompt_tokens)
        ratio = program.chars_per_token if program is not None else 0.0
        return max(1, math.ceil(event.prompt_chars / (ratio or self.chars_per_token(event.model))))

    def at_least(self, event: RequestArrived, program: Program | None) -> int:
        """Return a length in tokens that the prompt hardly undercuts; on it alone may a request be refused."""
        estimate = self.estimate(event, program)
        if event.prompt_tokens is not None:
            return estimate
        measured = event.model in self._models or (program is not None and program.chars_per_token > 0)
        return int(estimate / (_MEASURED_SLACK if measured else _UNMEASURED_SLACK))

    def learn(self, program: Program | None, model: str | None, chars: int, prompt_tokens: int) -> None:
        """Take in that ``chars`` characters were ``prompt_tokens`` tokens."""
        if chars <= 0 or prompt_tokens <= 0:
            return
        ratio = chars / prompt_tokens
        if program is not None:
            program.chars_per_token = ratio
        old = self._models.get(model)
        self._models[model] = ratio if old is None else old + _SMOOTHING * (ratio - old)
