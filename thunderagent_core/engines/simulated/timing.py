"""How long an engine step takes: a few coefficients, and presets with their sources."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class StepLoad:
    """What one step computes.

    Args:
        prefill_tokens: prompt tokens (and recomputed ones) computed in this step.
        decode_sequences: requests that compute just their next token.
        attention_pairs: sum over all computed tokens of the context that each attends to.
    """

    prefill_tokens: int
    decode_sequences: int
    attention_pairs: int


@dataclass(frozen=True, slots=True)
class Coefficients:
    """Linear cost of a step, in milliseconds.

    Args:
        base_ms: any step, however little it computes.
        prefill_ms_per_1k_tokens: each 1,000 prefill tokens.
        decode_ms_per_sequence: each decoding request.
        attention_ms_per_million_pairs: each million pairs of a computed token and a token it attends to;
            this makes the cost of a long prompt grow faster than its length.
    """

    base_ms: float
    prefill_ms_per_1k_tokens: float
    decode_ms_per_sequence: float
    attention_ms_per_million_pairs: float = 0.0

    def step_s(self, load: StepLoad) -> float:
        """Return the duration of a step with this load, in seconds."""
        milliseconds = (
            self.base_ms
            + self.prefill_ms_per_1k_tokens * load.prefill_tokens / 1e3
            + self.decode_ms_per_sequence * load.decode_sequences
            + self.attention_ms_per_million_pairs * load.attention_pairs / 1e6
        )
        return milliseconds / 1e3


def presets() -> dict[str, Coefficients]:
    """Return the named coefficient sets; ``docs/simulated-engine.md`` compares each with its source."""
    return {
        # vLLM 0.32 on 2 CPU cores with SmolLM2-135M: decode 29 / 77 / 135 / 183 tokens/s at 1 / 4 / 8 / 16
        # requests, prefill about 2,000 tokens/s, a prompt of 4,952 tokens 3.75 s.
        "smollm2-cpu": Coefficients(34.0, 365.0, 3.35, 150.0),
        # A large mixture-of-experts model on 8 H100: a step of about 46 ms and 29 ms for each 1,000 prefill
        # tokens.
        "h100-moe": Coefficients(46.0, 29.0, 0.0),
    }


def attention_pairs(start: int, count: int) -> int:
    """Return how many (token, context token) pairs ``count`` tokens after a context of ``start`` make."""
    return count * start + count * (count + 1) // 2
