"""How long a prompt is, in characters, or exactly where the client sent token ids."""

from __future__ import annotations

from typing import Any

import msgspec

from thunderagent_core.server.errors import invalid

_SIDE_FIELDS = ("system", "instructions")
"""Fields that hold prompt text beside the main one."""

_OPAQUE_KEYS = frozenset({"image_url", "input_audio", "image", "audio", "source", "file", "file_data", "video_url"})
"""Content whose length in characters says nothing about its tokens."""


def measure_prompt(content: dict[str, Any], field: str) -> tuple[int, int | None]:
    """Return (characters, exact tokens or None) of the prompt. Raises ApiError (400) naming the field at fault."""
    prompt = content.get(field)
    if prompt is None:
        raise invalid(f"`{field}` is required.", field, "missing_required_parameter")
    if field == "messages":
        chars = _messages_chars(prompt)
    elif isinstance(prompt, str):
        chars = len(prompt)
    elif not isinstance(prompt, list):
        raise invalid(f"`{field}` must be a string or a list.", field)
    else:
        tokens = _token_ids(prompt) if field == "prompt" else None
        if tokens is not None:
            return 0, tokens
        chars = _text_chars(prompt)
    for side in _SIDE_FIELDS:
        if side in content:
            chars += _text_chars(content[side])
    if content.get("tools"):
        chars += len(msgspec.json.encode(content["tools"]))
    return chars, None


def _messages_chars(messages: Any) -> int:
    if not isinstance(messages, list):
        raise invalid("`messages` must be a list.", "messages")
    if not messages:
        raise invalid("`messages` must not be empty.", "messages")
    chars = 0
    for index, message in enumerate(messages):
        if not isinstance(message, dict):
            raise invalid(f"`messages[{index}]` must be an object.", f"messages[{index}]")
        text = message.get("content")
        chars += len(text) if isinstance(text, str) else _text_chars(text)
        if "tool_calls" in message:
            chars += _text_chars(message["tool_calls"])
    return chars


def _text_chars(value: Any) -> int:
    """Count the characters of all strings below ``value`` but for pictures, sounds and files."""
    chars, stack = 0, [value]
    while stack:
        item = stack.pop()
        if isinstance(item, str):
            chars += len(item)
        elif isinstance(item, list):
            stack += item
        elif isinstance(item, dict):
            stack += [inner for key, inner in item.items() if key not in _OPAQUE_KEYS]
    return chars


def _token_ids(prompt: list[Any]) -> int | None:
    """Return the number of token ids in a ``prompt`` list, or None where it holds text."""
    if prompt and all(isinstance(item, int) for item in prompt):
        return len(prompt)
    if prompt and all(isinstance(item, list) for item in prompt):
        return sum(len(item) for item in prompt)
    if not all(isinstance(item, str) for item in prompt) or not prompt:
        raise invalid("`prompt` must be text, token ids, or a list of one of them.", "prompt")
    return None
