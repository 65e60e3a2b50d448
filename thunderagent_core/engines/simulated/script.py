"""Scripted replies: which conversation gets which answer, error or accident.

A script is a list of rules; the first whose conditions all hold answers. A rule's replies are indexed by how many
turns the assistant has had, so a repeated request gets the same answer again. ``docs/simulated-engine.md`` shows one.
"""

from __future__ import annotations

import tomllib
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any

import msgspec

from thunderagent_core.engines.simulated.conversation import ToolCall, canonical

if TYPE_CHECKING:
    from pathlib import Path

    from thunderagent_core.engines.simulated.conversation import Conversation


class ScriptError(ValueError):
    """A script cannot be read; the message says where and why."""


class ScriptedCall(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A tool call: the tool's name and its arguments, as an object or as text that is passed on as it is."""

    name: str
    arguments: dict[str, Any] | str = {}

    def call(self) -> ToolCall:
        """Return the call as it is generated."""
        return ToolCall(self.name, canonical(self.arguments))


class Reply(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One answer.

    Args:
        text: what the assistant says; with neither text, tokens nor tool calls, filler as if there were no script.
        tokens: length of filler text in tokens, instead of ``text``.
        tool_calls: tools that the assistant calls after that.
        delay_s: wait before the request enters the engine's queue, in seconds of engine time.
        status: refuse with this HTTP status before the first byte, instead of an answer.
        message: what the refusal says.
        die_after_tokens: break the connection off after this many tokens; 0: before the first byte.
    """

    text: str | None = None
    tokens: int | None = None
    tool_calls: tuple[ScriptedCall, ...] = ()
    delay_s: float = 0.0
    status: int | None = None
    message: str = "simulated failure"
    die_after_tokens: int | None = None

    def __post_init__(self) -> None:
        if self.text is not None and self.tokens is not None:
            raise ValueError("a reply has either text or tokens")
        if self.status is not None and not 400 <= self.status <= 599:  # noqa: PLR2004 - the HTTP error classes
            raise ValueError(f"status must be an HTTP error, got {self.status}")
        for name in ("tokens", "delay_s", "die_after_tokens"):
            if (getattr(self, name) or 0) < 0:
                raise ValueError(f"{name} must be at least 0, got {getattr(self, name)}")


class Rule(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Replies for the conversations that meet all conditions given.

    Args:
        replies: one for each turn of the assistant; the last one repeats.
        contains: text that some turn must contain.
        last_contains: text that the turn to be answered must contain.
        last_role: role of the turn to be answered: system, user, assistant or tool.
        session: shell pattern that the session id must match.
        times: how many requests the rule answers at most; unlimited where None.
    """

    replies: tuple[Reply, ...]
    contains: str | None = None
    last_contains: str | None = None
    last_role: str | None = None
    session: str | None = None
    times: int | None = None

    def __post_init__(self) -> None:
        if not self.replies:
            raise ValueError("a rule needs at least one reply")

    def matches(self, conversation: Conversation, session_id: str | None) -> bool:
        """Return whether all conditions hold."""
        last = conversation.last
        return (
            (self.contains is None or any(self.contains in turn.text for turn in conversation.turns))
            and (self.last_contains is None or self.last_contains in last.text)
            and (self.last_role is None or self.last_role == last.role)
            and (self.session is None or fnmatchcase(session_id or "", self.session))
        )


class _ScriptFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    rules: tuple[Rule, ...] = ()


class Script:
    """Rules and how often each has answered.

    Args:
        rules: tried in order.
    """

    def __init__(self, rules: tuple[Rule, ...] = ()) -> None:
        self.rules = rules
        self._answered = [0] * len(rules)

    def reply_for(self, conversation: Conversation, session_id: str | None) -> Reply | None:
        """Return the scripted reply, and count it; None where no rule applies."""
        for index, rule in enumerate(self.rules):
            if rule.times is not None and self._answered[index] >= rule.times:
                continue
            if rule.matches(conversation, session_id):
                self._answered[index] += 1
                return rule.replies[min(conversation.answered, len(rule.replies) - 1)]
        return None


def parse_script(data: object, source: str) -> Script:
    """Return the script that ``data`` (decoded JSON or TOML) describes. Raises ScriptError naming ``source``."""
    try:
        return Script(msgspec.convert(data, _ScriptFile).rules)
    except msgspec.ValidationError as error:
        raise ScriptError(f"{source}: {error}") from None


def load_script(path: Path) -> Script:
    """Read a script from a ``.toml`` or JSON file. Raises ScriptError."""
    try:
        content = path.read_bytes()
        data = tomllib.loads(content.decode()) if path.suffix == ".toml" else msgspec.json.decode(content)
    except (OSError, ValueError, msgspec.DecodeError) as error:
        raise ScriptError(f"{path}: {error}") from None
    return parse_script(data, str(path))
