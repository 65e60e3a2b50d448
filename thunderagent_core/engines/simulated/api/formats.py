"""What all APIs have in common: the request as the engine takes it, and the writer of its answer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import msgspec

if TYPE_CHECKING:
    from thunderagent_core.engines.simulated.conversation import Conversation, Piece, Turn
    from thunderagent_core.engines.simulated.replies import Wish
    from thunderagent_core.engines.simulated.requests import FinishReason

SERVICE = "simulated"
"""``system_fingerprint`` of every answer."""


@dataclass(frozen=True, slots=True)
class Identity:
    """What an answer says of itself.

    Args:
        suffix: what follows the API's prefix in its id: the client's ``X-Request-Id``, or random.
        created: seconds since 1970.
        model: name of the served model.
    """

    suffix: str
    created: int
    model: str


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens so far. ``created_cache_tokens`` are those of the prompt whose blocks were not cached but are now."""

    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int
    created_cache_tokens: int

    @property
    def total_tokens(self) -> int:
        """Prompt and completion together."""
        return self.prompt_tokens + self.completion_tokens


class Format(Protocol):
    """Writes one answer in one API's form: ``begin``, ``first``, ``token`` …, ``end``, or else only ``whole``."""

    def begin(self) -> bytes:
        """Return what a stream sends before there is a token; may be empty."""
        ...

    def first(self, usage: Usage) -> bytes:
        """Return what a stream sends just before its first token; may be empty."""
        ...

    def token(self, piece: Piece | None, finish: FinishReason | None, usage: Usage) -> bytes:
        """Return what a stream sends for one token; may be empty. ``finish`` is given with the last one."""
        ...

    def end(self, usage: Usage) -> bytes:
        """Return what a stream sends after its last token."""
        ...

    def whole(self, turn: Turn, finish: FinishReason, usage: Usage) -> dict[str, Any]:
        """Return the body of an answer that is not streamed."""
        ...


@dataclass(frozen=True, slots=True)
class Asked:
    """A valid generation request.

    Args:
        conversation: what the script is asked about.
        wish: what is to be generated.
        stream: whether the answer is streamed.
        format: writes the answer.
    """

    conversation: Conversation
    wish: Wish
    stream: bool
    format: Format


def data_event(body: object) -> bytes:
    """Return a server-sent event without a name."""
    return b"data: " + msgspec.json.encode(body) + b"\n\n"


def named_event(name: str, body: object) -> bytes:
    """Return a server-sent event with a name."""
    return b"event: " + name.encode() + b"\n" + data_event(body)
