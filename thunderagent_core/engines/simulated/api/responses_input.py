"""What a request of the Responses API says, as turns of a conversation."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from thunderagent_core.engines.simulated.api.errors import ApiError, invalid, unsupported
from thunderagent_core.engines.simulated.api.inputs import content_text, forced_tool, role_of
from thunderagent_core.engines.simulated.conversation import Conversation, Tool, ToolCall, Turn, canonical

if TYPE_CHECKING:
    from thunderagent_core.engines.simulated.api.fields import Fields

_SILENT_ITEMS: Final = frozenset(("reasoning", "item_reference"))
"""Items that are accepted and not shown to the model."""


def input_conversation(body: Fields) -> Conversation:
    """Return the conversation in ``instructions``, ``input`` and ``tools``. Raises ApiError."""
    if previous := body.text("previous_response_id"):
        raise ApiError(404, f"Response with id '{previous}' not found.", param="previous_response_id")
    turns = [Turn("system", body.text("instructions") or "")] if body.has("instructions") else []
    if isinstance(body.data.get("input"), str):
        turns.append(Turn("user", body.required_text("input")))
    else:
        for item in body.objects("input"):
            _add_item(turns, item)
    if not turns or not body.has("input"):
        raise invalid("input", "Field required: a text or a list of items, not empty")
    return Conversation(tuple(turns), tuple(_tool(tool) for tool in body.objects("tools")))


def tool_choice(body: Fields, conversation: Conversation) -> Tool | None:
    """Return the tool that must be called, if any. Raises ApiError."""
    choice = body.data.get("tool_choice")
    if choice is None or choice in ("auto", "none"):
        return None
    if choice == "required":
        return forced_tool(conversation.tools, None)
    named = body.object("tool_choice")
    return forced_tool(conversation.tools, named.required_text("name") if named is not None else None)


def _add_item(turns: list[Turn], item: Fields) -> None:
    """Append an item's turn; calls join the assistant's turn before them, as they were generated."""
    kind = item.text("type") or "message"
    if kind == "message":
        turns.append(Turn(role_of(item), content_text(item)))
    elif kind == "function_call":
        call = ToolCall(item.required_text("name"), canonical(item.text("arguments") or ""))
        said = turns.pop() if turns and turns[-1].role == "assistant" else Turn("assistant", "")
        turns.append(Turn("assistant", said.text, (*said.calls, call)))
    elif kind == "function_call_output":
        turns.append(Turn("tool", content_text(item, "output")))
    elif kind not in _SILENT_ITEMS:
        raise unsupported(f"The simulated engine does not know input items of type {kind}.", item.name("type"))


def _tool(tool: Fields) -> Tool:
    parameters = tool.object("parameters")
    name = tool.text("name") or tool.required_text("type")
    return Tool(name, canonical(tool.data), parameters.data if parameters else {})
