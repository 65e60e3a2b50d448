"""``POST /v1/messages``: the Anthropic API, as vLLM serves it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from thunderagent_core.engines.simulated.api.chat import new_call_id
from thunderagent_core.engines.simulated.api.errors import invalid
from thunderagent_core.engines.simulated.api.formats import Asked, named_event
from thunderagent_core.engines.simulated.api.inputs import content_text, forced_tool, part_text
from thunderagent_core.engines.simulated.conversation import Conversation, Tool, ToolCall, Turn, canonical, render
from thunderagent_core.engines.simulated.replies import Wish

if TYPE_CHECKING:
    from thunderagent_core.engines.simulated.api.fields import Fields
    from thunderagent_core.engines.simulated.api.formats import Identity, Usage
    from thunderagent_core.engines.simulated.conversation import Piece
    from thunderagent_core.engines.simulated.requests import FinishReason


def parse_messages(body: Fields, identity: Identity) -> Asked:
    """Return a request of the Anthropic API. Raises ApiError."""
    if not body.has("messages"):
        raise invalid("messages", "Field required")
    max_tokens = body.integer("max_tokens", 1)
    if max_tokens is None:
        raise invalid("max_tokens", "Field required")
    turns = [Turn("system", content_text(body, "system"))] if body.has("system") else []
    for message in body.objects("messages"):
        turns.extend(_turns(message))
    if not turns:
        raise invalid("messages", "List should have at least 1 item")
    conversation = Conversation(tuple(turns), tuple(_tool(tool) for tool in body.objects("tools")))
    body.strings("stop_sequences")
    wish = Wish(render(conversation), max_tokens, forced_tool=_tool_choice(body, conversation))
    return Asked(conversation, wish, body.flag("stream"), MessagesFormat(identity))


class MessagesFormat:
    """Writes Anthropic messages and their stream events."""

    def __init__(self, identity: Identity) -> None:
        self._id = f"chatcmpl-{identity.suffix}"
        self._model = identity.model
        self._block = -1
        self._open: str | None = None
        self._called = False
        self._finish: FinishReason = "stop"

    def begin(self) -> bytes:
        """Nothing comes before the first token."""
        return b""

    def first(self, usage: Usage) -> bytes:
        """Return ``message_start``; vLLM does not know of cached tokens yet."""
        message = {
            **self._message([]),
            "stop_reason": None,
            "stop_sequence": None,
            "usage": {"input_tokens": usage.prompt_tokens, "output_tokens": 0},
        }
        return _event("message_start", message=message)

    def token(self, piece: Piece | None, finish: FinishReason | None, usage: Usage) -> bytes:  # noqa: ARG002 - the protocol's signature
        """Return the delta of one token, with the start and end of content blocks where it needs them."""
        self._finish = finish or self._finish
        if piece is None:
            return b""
        if piece.name is not None:
            self._called = True
            block = {"type": "tool_use", "id": new_call_id(), "name": piece.name, "input": {}}
            return self._start("tool_use", block)
        if piece.call is not None:
            return self._delta({"type": "input_json_delta", "partial_json": piece.arguments})
        start = b"" if self._open == "text" else self._start("text", {"type": "text", "text": ""})
        return start + self._delta({"type": "text_delta", "text": piece.text})

    def end(self, usage: Usage) -> bytes:
        """Return the end of the last block and of the message."""
        delta = {"stop_reason": _stop_reason(self._finish, called=self._called), "stop_sequence": None}
        return self._stop() + _event("message_delta", delta=delta, usage=_usage(usage)) + _event("message_stop")

    def whole(self, turn: Turn, finish: FinishReason, usage: Usage) -> dict[str, Any]:
        """Return a message."""
        content: list[dict[str, Any]] = [{"type": "text", "text": turn.text}] if turn.text else []
        content += [
            {"type": "tool_use", "id": new_call_id(), "name": call.name, "input": _object(call)} for call in turn.calls
        ]
        reason = _stop_reason(finish, called=bool(turn.calls))
        return {**self._message(content), "stop_reason": reason, "usage": _usage(usage)}

    def _message(self, content: list[dict[str, Any]]) -> dict[str, Any]:
        return {"id": self._id, "type": "message", "role": "assistant", "content": content, "model": self._model}

    def _start(self, kind: str, block: dict[str, Any]) -> bytes:
        stop = self._stop()
        self._open = kind
        self._block += 1
        return stop + _event("content_block_start", content_block=block, index=self._block)

    def _stop(self) -> bytes:
        if self._open is None:
            return b""
        self._open = None
        return _event("content_block_stop", index=self._block)

    def _delta(self, delta: dict[str, Any]) -> bytes:
        return _event("content_block_delta", delta=delta, index=self._block)


def _event(kind: str, **fields: Any) -> bytes:
    return named_event(kind, {"type": kind, **fields})


def _usage(usage: Usage) -> dict[str, int]:
    """Return Anthropic's split: input tokens are those neither read from the cache nor written to it."""
    return {
        "input_tokens": usage.prompt_tokens - usage.cached_tokens - usage.created_cache_tokens,
        "output_tokens": usage.completion_tokens,
        "cache_creation_input_tokens": usage.created_cache_tokens,
        "cache_read_input_tokens": usage.cached_tokens,
    }


def _stop_reason(finish: FinishReason, *, called: bool) -> str:
    if finish == "length":
        return "max_tokens"
    return "tool_use" if called else "end_turn"


def _object(call: ToolCall) -> Any:
    """Return a call's arguments as an object; arguments cut short are shown as text."""
    try:
        return json.loads(call.arguments)
    except ValueError:
        return {"text": call.arguments}


def _turns(message: Fields) -> list[Turn]:
    """Return the turns in one message: tool results come first and are turns of their own."""
    role = message.required_text("role")
    if not isinstance(message.data.get("content"), list):
        return [Turn(role, message.required_text("content"))]
    turns: list[Turn] = []
    text: list[str] = []
    calls: list[ToolCall] = []
    for block in message.objects("content"):
        kind = block.required_text("type")
        if kind == "tool_result":
            turns.append(Turn("tool", content_text(block)))
        elif kind == "tool_use":
            calls.append(ToolCall(block.required_text("name"), canonical(block.data.get("input") or {})))
        else:
            text.append(part_text(block))
    if text or calls or not turns:
        turns.append(Turn(role, "".join(text), tuple(calls)))
    return turns


def _tool(tool: Fields) -> Tool:
    schema = tool.object("input_schema")
    return Tool(tool.required_text("name"), canonical(tool.data), schema.data if schema else {})


def _tool_choice(body: Fields, conversation: Conversation) -> Tool | None:
    choice = body.object("tool_choice")
    kind = choice.required_text("type") if choice is not None else "auto"
    if choice is None or kind in ("auto", "none"):
        return None
    return forced_tool(conversation.tools, choice.required_text("name") if kind == "tool" else None)
