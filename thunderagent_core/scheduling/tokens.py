"""Text to tokens before the engine has told us: from the program's last exact count, else by characters per token."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from thunderagent_core.scheduling.events import RequestArrived
    from thunderagent_core.scheduling.program import Program

DEFAULT_CHARS_PER_TOKEN = 4.0
"""English prose and code under today's tokenizers lie between 3 and 5."""

_LIKELY_RATIOS = 1.0, 8.0
"""Characters per token that text has. What lies outside was no text: pictures, or mostly the chat template."""

_TELLING_TOKENS = 256
"""A shorter prompt is template more than text, so it teaches no ratio."""

_SMOOTHING = 0.1
"""Share of the newest measurement in a model's running mean."""


class TokenEstimator:
    """Learns how many characters make a token from the usage that engines report."""

    __slots__ = ("_models",)

    def __init__(self) -> None:
        self._models: dict[str | None, float] = {}

    def chars_per_token(self, model: str | None) -> float:
        """Return the measured ratio of ``model``, else the default."""
        return self._models.get(model, DEFAULT_CHARS_PER_TOKEN)

    def estimate(self, event: RequestArrived, program: Program | None) -> int:
        """Return the likely prompt length in tokens; exact where the client sent token ids.

        An agent's prompt is its last one and a little more, so only the difference is estimated: what the template,
        pictures and dense text took was measured with the last one.
        """
        if event.prompt_tokens is not None:
            return max(1, event.prompt_tokens)
        chars, ratio = event.prompt_chars, self.chars_per_token(event.model)
        if program is None or not program.measured_tokens:
            return max(1, math.ceil(chars / ratio))
        if chars >= program.measured_chars:
            return program.measured_tokens + math.ceil((chars - program.measured_chars) / ratio)
        return max(1, math.ceil(chars * program.measured_tokens / program.measured_chars))

    def at_least(self, event: RequestArrived) -> int:
        """Return a length in tokens that the prompt cannot undercut; on it alone may a request be refused for good."""
        return event.prompt_tokens if event.prompt_tokens is not None else int(event.prompt_chars / _LIKELY_RATIOS[1])

    def learn(self, program: Program | None, model: str | None, chars: int, prompt_tokens: int) -> None:
        """Take in that ``chars`` characters were ``prompt_tokens`` tokens."""
        if chars <= 0 or prompt_tokens <= 0:
            return
        if program is not None:
            program.measured_chars, program.measured_tokens = chars, prompt_tokens
        least, most = _LIKELY_RATIOS
        ratio = chars / prompt_tokens
        if prompt_tokens < _TELLING_TOKENS or not least <= ratio <= most:
            return
        old = self._models.get(model)
        self._models[model] = ratio if old is None else old + _SMOOTHING * (ratio - old)
