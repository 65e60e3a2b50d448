"""Text for replies that nobody wrote: deterministic, seeded by the prompt, of an exact number of tokens."""

from __future__ import annotations

from hashlib import shake_128
from typing import Final

from thunderagent_core.engines.simulated.tokenizer import CHUNK_BYTES

_OPENING: Final = "Simulated: "
_WORDS: Final = tuple(
    "agent block cache depth engine field graph heap index joint kernel layer merge node order page queue range "  # noqa: SIM905 - 32 strings, one to a line, would be harder to read
    "state token unit value write yield batch chunk delta event frame group hash item".split()
)


def filler(seed: int, tokens: int) -> str:
    """Return text of exactly ``tokens`` tokens; the same seed gives the same text."""
    length = tokens * CHUNK_BYTES
    # The shortest word is 4 letters and a space, so a word for each 4 letters is always enough.
    choices = shake_128(seed.to_bytes(8, "big")).digest(tokens)
    text = _OPENING + " ".join(_WORDS[choice % len(_WORDS)] for choice in choices)
    return text[:length]
