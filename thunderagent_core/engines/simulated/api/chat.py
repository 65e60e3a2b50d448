"""``POST /v1/chat/completions``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from thunderagent_core.engines.simulated.api.errors import invalid, unsupported
from thunderagent_core.engines.simulated.api.formats import SERVICE, Asked, data_event
from thunderagent_core.engines.simulated.api.inputs import chat_conversation, forced_tool
from thunderagent_core.engines.simulated.conversation import render
from thunderagent_core.engines.simulated.replies import Wish

if TYPE_CHECKING:
    from thunderagent_core.engines.simulated.api.fields import Fields
    from thunderagent_core.engines.simulated.api.formats import Identity, Usage
    from thunderagent_core.engines.simulated.conversation import Conversation, Piece, Tool, Turn
    from thunderagent_core.engines.simulated.requests import FinishReason


@dataclass(frozen=True, slots=True)
class StreamOptions:
    """Where a stream reports usage: in a chunk of its own at the end, and in every chunk."""

    usage: bool
    continuous: bool


def parse_chat(body: Fields, identity: Identity) -> Asked:
    """Return a chat request. Raises ApiError."""
    conversation = chat_conversation(body)
    check_sampling(body)
    tool, named = _tool_choice(body, conversation)
    name = "max_completion_tokens" if body.has("max_completion_tokens") else "max_tokens"
    wish = Wish(render(conversation), body.integer(name, 1), body.flag("ignore_eos"), tool)
    answer = ChatFormat(identity, stream_options(body), named=named)
    return Asked(conversation, wish, body.flag("stream"), answer)


def check_sampling(body: Fields) -> None:
    """Refuse what cannot be served; ``stop`` is checked and then has no effect, because nothing is sampled."""
    if (body.integer("n", 1) or 1) != 1:
        raise unsupported("n must be 1 for the simulated engine.", param="n")
    body.strings("stop")


def stream_options(body: Fields) -> StreamOptions:
    """Return the usage options of a stream. Raises ApiError where they are given without a stream."""
    options = body.object("stream_options")
    if options is None:
        return StreamOptions(usage=False, continuous=False)
    if not body.flag("stream"):
        message = "Stream options can only be defined when `stream=True`. (parameter=stream_options)"
        raise unsupported(message, param="stream_options")
    usage = options.flag("include_usage")
    return StreamOptions(usage, usage and options.flag("continuous_usage_stats"))


def usage_object(usage: Usage, **details: int | None) -> dict[str, Any]:
    """Return the usage object of the OpenAI APIs with vLLM's prompt details."""
    return {
        "prompt_tokens": usage.prompt_tokens,
        "total_tokens": usage.total_tokens,
        "completion_tokens": usage.completion_tokens,
        "prompt_tokens_details": {"cached_tokens": usage.cached_tokens, **details},
    }


def continuous_usage(usage: Usage) -> dict[str, Any]:
    """Return the usage object that every chunk carries where the client asked for that."""
    figures = usage_object(usage)
    del figures["prompt_tokens_details"]  # vLLM reports them at the end only
    return figures | {"completion_tokens_details": None}


def new_call_id() -> str:
    """Return an id for a tool call, in vLLM's form."""
    return f"chatcmpl-tool-{uuid4().hex[:16]}"


class ChatFormat:
    """Writes chat completions and their chunks.

    Args:
        identity: of the answer.
        options: what a stream says of usage.
        named: whether the request named the tool to call; then vLLM's finish reason is "stop".
    """

    def __init__(self, identity: Identity, options: StreamOptions, *, named: bool) -> None:
        self._id = f"chatcmpl-{identity.suffix}"
        self._identity = identity
        self._options = options
        self._named = named
        self._called = False

    def begin(self) -> bytes:
        """Nothing comes before the first token."""
        return b""

    def first(self, usage: Usage) -> bytes:
        """Return the chunk with the role."""
        choice = {
            "index": 0,
            "delta": {"role": "assistant", "content": ""},
            "logprobs": None,
            "finish_reason": None,
        }
        return self._chunk([choice], usage, prompt_token_ids=None, prompt_text=None)

    def token(self, piece: Piece | None, finish: FinishReason | None, usage: Usage) -> bytes:
        """Return a chunk with the token's delta; none for a token that shows nothing before the end."""
        if piece is None and finish is None:
            return b""
        choice = {"index": 0, "delta": self._delta(piece), "logprobs": None, "finish_reason": None}
        fingerprint = {}
        if finish is not None:
            choice |= {"finish_reason": self._finish(finish, called=self._called), "stop_reason": None}
            fingerprint = {} if self._options.usage else {"system_fingerprint": SERVICE}
        choice["token_ids"] = None
        return self._chunk([choice], usage, **fingerprint)

    def end(self, usage: Usage) -> bytes:
        """Return the usage chunk, where the client asked for it, and the end mark."""
        chunk = b""
        if self._options.usage:
            figures = usage_object(usage, created_cache_tokens=usage.created_cache_tokens)
            chunk = data_event(self._head([]) | {"usage": figures, "system_fingerprint": SERVICE})
        return chunk + b"data: [DONE]\n\n"

    def whole(self, turn: Turn, finish: FinishReason, usage: Usage) -> dict[str, Any]:
        """Return a chat completion."""
        message: dict[str, Any] = {"role": "assistant", "content": turn.text, "refusal": None, "annotations": None}
        message |= {"audio": None, "function_call": None, "reasoning": None}
        if turn.calls:
            message["tool_calls"] = [
                {
                    "id": new_call_id(),
                    "type": "function",
                    "function": {"name": call.name, "arguments": call.arguments},
                }
                for call in turn.calls
            ]
        reason = self._finish(finish, called=bool(turn.calls))
        choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": reason, "stop_reason": None}
        figures = usage_object(usage, created_cache_tokens=usage.created_cache_tokens, multimodal_tokens=None)
        completion = self._head([choice | {"token_ids": None}], "chat.completion")
        return completion | {
            "service_tier": None,
            "system_fingerprint": SERVICE,
            "usage": figures | {"completion_tokens_details": None},
        }

    def _delta(self, piece: Piece | None) -> dict[str, Any]:
        if piece is None:
            return {}
        if piece.call is None:
            return {"content": piece.text}
        self._called = True
        if piece.name is None:
            call = {"index": piece.call, "function": {"arguments": piece.arguments}}
        else:
            function = {"name": piece.name}
            call = {"id": new_call_id(), "type": "function", "index": piece.call, "function": function}
        return {"content": None, "tool_calls": [call]}

    def _finish(self, finish: FinishReason, *, called: bool) -> str:
        return "tool_calls" if called and finish == "stop" and not self._named else finish

    def _head(self, choices: list[dict[str, Any]], kind: str = "chat.completion.chunk") -> dict[str, Any]:
        return {
            "id": self._id,
            "object": kind,
            "created": self._identity.created,
            "model": self._identity.model,
            "choices": choices,
        }

    def _chunk(self, choices: list[dict[str, Any]], usage: Usage, **more: Any) -> bytes:
        chunk = self._head(choices)
        if self._options.continuous:
            chunk["usage"] = continuous_usage(usage)
        return data_event(chunk | more)


def _tool_choice(body: Fields, conversation: Conversation) -> tuple[Tool | None, bool]:
    """Return the tool that must be called, and whether the request named it."""
    choice = body.data.get("tool_choice")
    if choice is None or choice in ("auto", "none"):
        return None, False
    if not conversation.tools:
        raise unsupported("When using `tool_choice`, `tools` must be set. (parameter=tool_choice)", "tool_choice")
    if choice == "required":
        return forced_tool(conversation.tools, None), False
    named = body.object("tool_choice")
    function = named.object("function") if named is not None else None
    if function is None:
        raise invalid("tool_choice", "Input should be 'none', 'auto', 'required' or name a function")
    return forced_tool(conversation.tools, function.required_text("name")), True
