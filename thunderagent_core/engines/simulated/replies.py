"""What the engine will answer, token by token, decided before it starts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal

from thunderagent_core.engines.simulated.conversation import Piece, ToolCall, Turn, canonical, pieces
from thunderagent_core.engines.simulated.filler import filler
from thunderagent_core.engines.simulated.hashing import chain_hash
from thunderagent_core.engines.simulated.tokenizer import CHUNK_BYTES

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from thunderagent_core.engines.simulated.conversation import Tool
    from thunderagent_core.engines.simulated.script import Reply

DEFAULT_REPLY_TOKENS: Final = 64
"""Length of an answer where neither the request, the script nor the settings state one."""

Pieces = list[tuple[int, Piece | None]]


@dataclass(frozen=True, slots=True)
class Wish:
    """What a request says about its answer.

    Args:
        prompt: token ids.
        max_tokens: most tokens of output; None where the request states nothing.
        ignore_eos: whether the answer must have exactly ``max_tokens`` tokens.
        forced_tool: tool that must be called.
        chat: whether the answer is a turn in a conversation rather than a continued text.
    """

    prompt: Sequence[int]
    max_tokens: int | None
    ignore_eos: bool = False
    forced_tool: Tool | None = None
    chat: bool = True


@dataclass(frozen=True, slots=True)
class Answer:
    """Token ids to be generated, what each shows, and how the answer ends."""

    shown: Pieces
    finish_reason: Literal["stop", "length"]

    @property
    def tokens(self) -> list[int]:
        """The token ids alone."""
        return [token for token, _ in self.shown]


def decide(wish: Wish, reply: Reply | None, default_tokens: int | None) -> Answer:
    """Return the answer to a request; the same arguments give the same answer.

    Args:
        wish: what the request says.
        reply: the script's answer, if it has one.
        default_tokens: length of an unscripted answer; None: the request's ``max_tokens``, or 64.
    """
    seed = chain_hash(None, wish.prompt)
    turn = _scripted_turn(reply, seed)
    if turn is None and wish.forced_tool is not None:
        turn = Turn("assistant", "", (_forced_call(wish.forced_tool),))
    if turn is not None and not wish.ignore_eos:
        return _cut(pieces(turn), wish.max_tokens)
    count = wish.max_tokens or DEFAULT_REPLY_TOKENS
    if default_tokens is not None and not wish.ignore_eos:
        count = min(count, default_tokens)
    wants_more = wish.max_tokens is not None and count == wish.max_tokens
    text = filler(seed, count if wants_more else count - 1)
    if not wish.chat:
        # After a newline the tokens of the prompt and the answer joined are in step with those of the answer.
        text = "\n" + text[:-CHUNK_BYTES]
    return Answer(pieces(Turn("assistant", text))[:count], "length" if wants_more else "stop")


def assemble(shown: Iterable[Piece | None]) -> Turn:
    """Return the turn that a client puts together from the pieces it was sent."""
    text: list[str] = []
    calls: list[tuple[str, list[str]]] = []
    for piece in shown:
        if piece is None:
            continue
        text.append(piece.text)
        if piece.name is not None:
            calls.append((piece.name, []))
        elif piece.call is not None:
            calls[piece.call][1].append(piece.arguments)
    return Turn("assistant", "".join(text), tuple(ToolCall(name, "".join(parts)) for name, parts in calls))


def _scripted_turn(reply: Reply | None, seed: int) -> Turn | None:
    if reply is None or (reply.text is None and reply.tokens is None and not reply.tool_calls):
        return None
    text = filler(seed, reply.tokens) if reply.tokens is not None else reply.text or ""
    return Turn("assistant", text, tuple(call.call() for call in reply.tool_calls))


def _cut(shown: Pieces, max_tokens: int | None) -> Answer:
    if max_tokens is not None and len(shown) > max_tokens:
        return Answer(shown[:max_tokens], "length")
    return Answer(shown, "stop")


def _forced_call(tool: Tool) -> ToolCall:
    """Return a call with a value of the right type for each required parameter."""
    properties = tool.parameters.get("properties")
    required = tool.parameters.get("required")
    schemas = properties if isinstance(properties, dict) else {}
    names = [name for name in required if isinstance(name, str)] if isinstance(required, list) else []
    arguments = {name: _example(schemas.get(name)) for name in names}
    return ToolCall(tool.name, canonical(arguments))


def _example(schema: object) -> object:
    if not isinstance(schema, dict):
        return "simulated"
    if isinstance(schema.get("enum"), list) and schema["enum"]:
        return schema["enum"][0]
    examples = {"integer": 1, "number": 1.0, "boolean": True, "array": [], "object": {}, "null": None}
    return examples.get(str(schema.get("type")), "simulated")
