"""``POST /v1/responses``: OpenAI's Responses API, without storage: each request carries its whole input."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from uuid import uuid4

from thunderagent_core.engines.simulated.api.formats import Asked, named_event
from thunderagent_core.engines.simulated.api.responses_input import input_conversation, tool_choice
from thunderagent_core.engines.simulated.conversation import render
from thunderagent_core.engines.simulated.replies import Wish

if TYPE_CHECKING:
    from thunderagent_core.engines.simulated.api.fields import Fields
    from thunderagent_core.engines.simulated.api.formats import Identity, Usage
    from thunderagent_core.engines.simulated.conversation import Piece, Turn
    from thunderagent_core.engines.simulated.requests import FinishReason

Object = dict[str, Any]


def parse_responses(body: Fields, identity: Identity) -> Asked:
    """Return a request of the Responses API. Raises ApiError; earlier responses are not stored."""
    conversation = input_conversation(body)
    max_tokens = body.integer("max_output_tokens", 1)
    wish = Wish(render(conversation), max_tokens, body.flag("ignore_eos"), tool_choice(body, conversation))
    return Asked(conversation, wish, body.flag("stream"), ResponsesFormat(identity, max_tokens))


class ResponsesFormat:
    """Writes responses and their stream events; items are a message with the text, then one for each call."""

    def __init__(self, identity: Identity, max_tokens: int | None) -> None:
        self._id = f"resp_{identity.suffix}"
        self._identity = identity
        self._max_tokens = max_tokens
        self._sequence = 0
        self._shown: list[Piece] = []
        self._item: Object | None = None
        self._items: list[Object] = []
        self._finish: FinishReason = "stop"

    def begin(self) -> bytes:
        """Return what vLLM sends at once: the response exists and is in progress."""
        response = self._response([], "in_progress", None)
        return self._event("response.created", response=response) + self._event(
            "response.in_progress", response=response
        )

    def first(self, usage: Usage) -> bytes:  # noqa: ARG002 - the protocol's signature
        """Nothing comes just before the first token."""
        return b""

    def token(self, piece: Piece | None, finish: FinishReason | None, usage: Usage) -> bytes:  # noqa: ARG002 - the protocol's signature
        """Return the delta of one token, with the start and end of items where it needs them."""
        self._finish = finish or self._finish
        if piece is None:
            return b""
        if piece.name is not None:
            return self._start(_call_item(piece.name))
        opened = b""
        if piece.call is None and self._item is None:
            opened = self._start({"id": f"msg_{uuid4().hex[:16]}", "type": "message", "role": "assistant"})
        self._shown.append(piece)
        if piece.call is not None:
            return self._event(
                "response.function_call_arguments.delta", delta=piece.arguments, **self._place(content=False)
            )
        return opened + self._event(
            "response.output_text.delta", delta=piece.text, logprobs=[], **self._place(content=True)
        )

    def end(self, usage: Usage) -> bytes:
        """Return the end of the last item and of the response."""
        closed = self._close()
        response = self._response(self._items, self._status(self._finish), usage)
        return closed + self._event("response.completed", response=response)

    def whole(self, turn: Turn, finish: FinishReason, usage: Usage) -> Object:
        """Return a response."""
        output = [_message_item(f"msg_{uuid4().hex[:16]}", turn.text)] if turn.text or not turn.calls else []
        output += [_call_item(call.name) | {"arguments": call.arguments, "status": "completed"} for call in turn.calls]
        return self._response(output, self._status(finish), usage)

    def _start(self, item: Object) -> bytes:
        closed = self._close()
        self._item, self._shown = item, []
        is_text = item["type"] == "message"
        shown = item | ({"content": [], "status": "in_progress", "phase": None} if is_text else {})
        added = self._event("response.output_item.added", item=shown, output_index=len(self._items))
        if not is_text:
            return closed + added
        part: Object = {"annotations": [], "text": "", "type": "output_text", "logprobs": []}
        return closed + added + self._event("response.content_part.added", part=part, **self._place(content=True))

    def _close(self) -> bytes:
        """End the open item, if there is one."""
        if self._item is None:
            return b""
        text = "".join(piece.text + piece.arguments for piece in self._shown)
        if self._item["type"] == "message":
            done = _message_item(self._item["id"], text)
            place = self._place(content=True)
            events = self._event("response.output_text.done", text=text, logprobs=[], **place)
            events += self._event("response.content_part.done", part=done["content"][0], **place)
        else:
            done = self._item | {"arguments": text, "status": "completed"}
            events = self._event(
                "response.function_call_arguments.done",
                arguments=text,
                name=done["name"],
                **self._place(content=False),
            )
        events += self._event("response.output_item.done", item=done, output_index=len(self._items))
        self._items.append(done)
        self._item = None
        return events

    def _place(self, *, content: bool) -> Object:
        item = self._item or {}
        place: Object = {"item_id": item.get("id"), "output_index": len(self._items)}
        return place | {"content_index": 0} if content else place

    def _event(self, kind: str, **fields: Any) -> bytes:
        body = {**fields, "sequence_number": self._sequence, "type": kind}
        self._sequence += 1
        return named_event(kind, body)

    def _status(self, finish: FinishReason) -> str:
        return "incomplete" if finish == "length" else "completed"

    def _response(self, output: list[Object], status: str, usage: Usage | None) -> Object:
        incomplete = {"reason": "max_output_tokens"} if status == "incomplete" else None
        return {
            "id": self._id,
            "created_at": self._identity.created,
            "incomplete_details": incomplete,
            "instructions": None,
            "metadata": {"simulated": "thunderagent"},
            "model": self._identity.model,
            "object": "response",
            "output": output,
            "parallel_tool_calls": True,
            "temperature": 1.0,
            "tool_choice": "auto",
            "tools": [],
            "top_p": 1.0,
            "background": False,
            "max_output_tokens": self._max_tokens,
            "previous_response_id": None,
            "reasoning": None,
            "service_tier": "auto",
            "status": status,
            "text": None,
            "truncation": "disabled",
            "usage": None if usage is None else _usage(usage),
            "user": None,
        }


def _usage(usage: Usage) -> Object:
    return {
        "input_tokens": usage.prompt_tokens,
        "input_tokens_details": {
            "cached_tokens": usage.cached_tokens,
            "cache_write_tokens": usage.created_cache_tokens,
        },
        "output_tokens": usage.completion_tokens,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": usage.total_tokens,
    }


def _message_item(item_id: str, text: str) -> Object:
    part: Object = {"annotations": [], "text": text, "type": "output_text", "logprobs": None}
    return {
        "id": item_id,
        "content": [part],
        "role": "assistant",
        "status": "completed",
        "type": "message",
        "phase": None,
    }


def _call_item(name: str) -> Object:
    unique = uuid4().hex[:16]
    return {
        "id": f"fc_{unique}",
        "call_id": f"call_{unique}",
        "type": "function_call",
        "name": name,
        "arguments": "",
        "status": "in_progress",
    }
