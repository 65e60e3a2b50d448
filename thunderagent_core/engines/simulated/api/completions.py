"""``POST /v1/completions``: a text, or its token ids, to be continued."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from thunderagent_core.engines.simulated.api.chat import (
    check_sampling,
    continuous_usage,
    stream_options,
    usage_object,
)
from thunderagent_core.engines.simulated.api.errors import invalid, unsupported
from thunderagent_core.engines.simulated.api.formats import SERVICE, Asked, data_event
from thunderagent_core.engines.simulated.conversation import Conversation, Turn
from thunderagent_core.engines.simulated.replies import Wish
from thunderagent_core.engines.simulated.tokenizer import decode, encode

if TYPE_CHECKING:
    from thunderagent_core.engines.simulated.api.chat import StreamOptions
    from thunderagent_core.engines.simulated.api.fields import Fields
    from thunderagent_core.engines.simulated.api.formats import Identity, Usage
    from thunderagent_core.engines.simulated.conversation import Piece
    from thunderagent_core.engines.simulated.requests import FinishReason

DEFAULT_MAX_TOKENS: Final = 16
"""What a completion without ``max_tokens`` gets, as in OpenAI's API."""

MAX_TOKEN_ID: Final = 1 << 63


def parse_completion(body: Fields, identity: Identity) -> Asked:
    """Return a completion request. Raises ApiError; several prompts at once are refused."""
    text, tokens = _prompt(body)
    check_sampling(body)
    max_tokens = body.integer("max_tokens", 1) or DEFAULT_MAX_TOKENS
    wish = Wish(tokens, max_tokens, body.flag("ignore_eos"), chat=False)
    conversation = Conversation((Turn("user", text),))
    return Asked(conversation, wish, body.flag("stream"), CompletionFormat(identity, stream_options(body)))


class CompletionFormat:
    """Writes text completions and their chunks."""

    def __init__(self, identity: Identity, options: StreamOptions) -> None:
        self._id = f"cmpl-{identity.suffix}"
        self._identity = identity
        self._options = options

    def begin(self) -> bytes:
        """Nothing comes before the first token."""
        return b""

    def first(self, usage: Usage) -> bytes:  # noqa: ARG002 - the protocol's signature
        """Nothing comes before the first token."""
        return b""

    def token(self, piece: Piece | None, finish: FinishReason | None, usage: Usage) -> bytes:
        """Return a chunk with the token's text."""
        choice = self._choice(piece.text if piece is not None else "", finish)
        chunk = self._head([choice | {"prompt_token_ids": None, "token_ids": None}])
        if finish is not None and not self._options.usage:
            chunk["system_fingerprint"] = SERVICE
        if self._options.continuous:
            chunk["usage"] = continuous_usage(usage)
        return data_event(chunk)

    def end(self, usage: Usage) -> bytes:
        """Return the usage chunk, where the client asked for it, and the end mark."""
        chunk = b""
        if self._options.usage:
            chunk = data_event(self._head([]) | {"usage": usage_object(usage), "system_fingerprint": SERVICE})
        return chunk + b"data: [DONE]\n\n"

    def whole(self, turn: Turn, finish: FinishReason, usage: Usage) -> dict[str, Any]:
        """Return a completion."""
        figures = usage_object(usage, created_cache_tokens=None, multimodal_tokens=None)
        choice = self._choice(turn.text, finish) | {"token_ids": None, "prompt_logprobs": None}
        return self._head([choice | {"prompt_token_ids": None}]) | {
            "service_tier": None,
            "system_fingerprint": SERVICE,
            "usage": figures | {"completion_tokens_details": None},
        }

    def _choice(self, text: str, finish: FinishReason | None) -> dict[str, Any]:
        return {"index": 0, "text": text, "logprobs": None, "finish_reason": finish, "stop_reason": None}

    def _head(self, choices: list[dict[str, Any]]) -> dict[str, Any]:
        return {
            "id": self._id,
            "object": "text_completion",
            "created": self._identity.created,
            "model": self._identity.model,
            "choices": choices,
        }


def _prompt(body: Fields) -> tuple[str, list[int]]:
    prompt = body.data.get("prompt")
    if isinstance(prompt, list) and len(prompt) == 1 and isinstance(prompt[0], str | list):
        prompt = prompt[0]
    if isinstance(prompt, str) and prompt:
        return prompt, encode(prompt)
    if (
        isinstance(prompt, list)
        and prompt
        and all(type(token) is int and 0 <= token < MAX_TOKEN_ID for token in prompt)
    ):
        return _text_of(prompt), prompt
    if isinstance(prompt, list) and len(prompt) > 1:
        raise unsupported("The simulated engine takes one prompt in a request.", param="prompt")
    raise invalid("prompt", "Field required: a text or a list of token ids, not empty")


def _text_of(tokens: list[int]) -> str:
    try:
        return decode(tokens)
    except ValueError:
        return ""
