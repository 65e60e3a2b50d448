"""Messages and tools of the OpenAI APIs, as turns of a conversation."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from thunderagent_core.engines.simulated.api.errors import invalid, unsupported
from thunderagent_core.engines.simulated.conversation import Conversation, Tool, ToolCall, Turn, canonical

if TYPE_CHECKING:
    from thunderagent_core.engines.simulated.api.fields import Fields

_ROLES: Final = {"developer": "system", "function": "tool"}
"""Roles that are shown to the model under another name."""

_SILENT_PARTS: Final = frozenset(("thinking", "redacted_thinking", "reasoning"))
"""Content that is accepted and not shown to the model."""


def chat_conversation(body: Fields) -> Conversation:
    """Return the conversation in the ``messages`` and ``tools`` of the chat API. Raises ApiError."""
    if not body.has("messages"):
        raise invalid("messages", "Field required")
    turns = tuple(_chat_turn(message) for message in body.objects("messages"))
    if not turns:
        raise invalid("messages", "List should have at least 1 item")
    return Conversation(turns, chat_tools(body))


def chat_tools(body: Fields) -> tuple[Tool, ...]:
    """Return the tools of the chat API. Raises ApiError."""
    if body.array("tools") == []:
        raise unsupported(
            "`tools` must not be an empty array. Either provide at least one tool or omit the field entirely. "
            "(parameter=tools)",
            param="tools",
        )
    return tuple(_chat_tool(tool) for tool in body.objects("tools"))


def content_text(fields: Fields, field: str = "content") -> str:
    """Return the text of a string or of a list of content parts. Raises ApiError for images and the like."""
    value = fields.data.get(field)
    if value is None or isinstance(value, str):
        return value or ""
    return "".join(part_text(part) for part in fields.objects(field))


def part_text(part: Fields) -> str:
    """Return the text of one content part. Raises ApiError where it is not text."""
    kind = part.required_text("type")
    if kind in _SILENT_PARTS:
        return ""
    if not part.has("text") and part.has("refusal"):
        return part.required_text("refusal")
    if not kind.endswith("text"):
        raise unsupported(f"The simulated engine is not a multimodal model: {kind}", param=part.name("type"))
    return part.required_text("text")


def forced_tool(tools: tuple[Tool, ...], name: str | None) -> Tool:
    """Return the tool that must be called: the named one, or the first. Raises ApiError where there is none."""
    for tool in tools:
        if name is None or tool.name == name:
            return tool
    raise unsupported(f"The tool specified in `tool_choice` does not match any of the `tools`: {name}", "tool_choice")


def role_of(message: Fields) -> str:
    """Return the role that the model is shown. Raises ApiError."""
    role = message.required_text("role")
    return _ROLES.get(role, role)


def _chat_turn(message: Fields) -> Turn:
    calls = tuple(_chat_call(call) for call in message.objects("tool_calls"))
    return Turn(role_of(message), content_text(message), calls)


def _chat_call(call: Fields) -> ToolCall:
    function = call.object("function")
    if function is None:
        raise invalid(call.name("function"), "Field required")
    return ToolCall(function.required_text("name"), canonical(function.text("arguments") or ""))


def _chat_tool(tool: Fields) -> Tool:
    function = tool.object("function")
    if function is None:
        raise invalid(tool.name("function"), "Field required")
    parameters = function.object("parameters")
    return Tool(function.required_text("name"), canonical(tool.data), parameters.data if parameters else {})
