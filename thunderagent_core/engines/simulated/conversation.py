"""Conversations in one form for all APIs, and the chat template that flattens them to tokens.

A turn of the assistant is rendered from the same tokens that were generated for it, so a conversation's next
request has the previous one, answer included, as its prefix. As in most real templates ids of tool calls are left
out, and arguments are written as canonical JSON, so that a client may re-format them.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from thunderagent_core.engines.simulated.tokenizer import Special, decode_one, encode


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A call of a tool by the assistant; ``arguments`` as ``canonical`` writes them."""

    name: str
    arguments: str


@dataclass(frozen=True, slots=True)
class Turn:
    """One message: ``role`` is system, user, assistant or tool."""

    role: str
    text: str
    calls: tuple[ToolCall, ...] = ()


@dataclass(frozen=True, slots=True)
class Tool:
    """A tool that the model may call; ``definition`` is what the prompt shows, ``parameters`` its JSON schema."""

    name: str
    definition: str
    parameters: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Conversation:
    """All that the model is shown; ``turns`` is not empty."""

    turns: tuple[Turn, ...]
    tools: tuple[Tool, ...] = ()

    @property
    def answered(self) -> int:
        """How many turns the assistant has had."""
        return sum(turn.role == "assistant" for turn in self.turns)

    @property
    def last(self) -> Turn:
        """The turn to be answered."""
        return self.turns[-1]


@dataclass(frozen=True, slots=True)
class Piece:
    """What one generated token shows to the client: some text, a call's name, or some of a call's arguments."""

    text: str = ""
    call: int | None = None
    name: str | None = None
    arguments: str = ""


def canonical(arguments: object) -> str:
    """Return JSON in one fixed form; text that is not JSON is returned as it is."""
    if isinstance(arguments, str):
        try:
            arguments = json.loads(arguments)
        except ValueError:
            return str(arguments)
    return json.dumps(arguments, ensure_ascii=False)


def render(conversation: Conversation) -> list[int]:
    """Return the prompt of a conversation, up to where the assistant begins to speak."""
    tokens: list[int] = [Special.BEGIN]
    for tool in conversation.tools:
        tokens.append(Special.TOOLS)
        tokens.extend(encode(tool.definition))
    for turn in conversation.turns:
        tokens.extend(_heading(turn.role))
        tokens.extend(_body(turn))
    return tokens + _heading("assistant")


def pieces(turn: Turn) -> list[tuple[int, Piece | None]]:
    """Return the tokens of an answer with what each shows; None for those that show nothing."""
    shown: list[tuple[int, Piece | None]] = [(token, Piece(text=decode_one(token))) for token in encode(turn.text)]
    for index, call in enumerate(turn.calls):
        shown.append((Special.CALL, None))
        shown.extend((token, None) for token in encode(call.name))
        shown.append((Special.BODY, Piece(call=index, name=call.name)))
        shown.extend((token, Piece(call=index, arguments=decode_one(token))) for token in encode(call.arguments))
    shown.append((Special.END, None))
    return shown


def _heading(role: str) -> list[int]:
    return [Special.TURN, *encode(role), Special.BODY]


def _body(turn: Turn) -> list[int]:
    tokens = encode(turn.text)
    for call in turn.calls:
        tokens += [Special.CALL, *encode(call.name), Special.BODY, *encode(call.arguments)]
    tokens.append(Special.END)
    return tokens
