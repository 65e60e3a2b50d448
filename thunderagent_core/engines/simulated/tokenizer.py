"""A toy tokenizer: four bytes to a token, reversible without a vocabulary, the same on every machine.

Each line is cut into chunks of at most four UTF-8 bytes, never inside a character. So equal beginnings of two texts
give equal token ids up to the last chunk, a text that is a whole number of generated tokens is encoded to the same
tokens again, and after a newline two texts are in step whatever came before.
"""

from __future__ import annotations

from enum import IntEnum
from struct import unpack
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

CHUNK_BYTES = 4
TEXT_BASE = 16
"""First id of text; smaller ones are special."""


class Special(IntEnum):
    """Tokens with no text, which only the chat template writes; user text cannot imitate them."""

    BEGIN = 0
    TOOLS = 1
    TURN = 2
    BODY = 3
    CALL = 4
    END = 5


def encode(text: str) -> list[int]:
    """Return the token ids of ``text``; lone surrogates become question marks."""
    if not text:
        return []
    ids: list[int] = []
    lines = text.split("\n")
    for line in lines[:-1]:
        _encode_line(line + "\n", ids)
    _encode_line(lines[-1], ids)
    return ids


def decode_one(token: int) -> str:
    """Return the text of one token; empty for special ones. Raises ValueError where no text has this id."""
    if token < TEXT_BASE:
        return ""
    longer_by, value = divmod(token - TEXT_BASE, 1 << 8 * CHUNK_BYTES)
    try:
        if longer_by < CHUNK_BYTES:
            return value.to_bytes(longer_by + 1, "big").decode()
    except (OverflowError, UnicodeDecodeError):
        pass
    raise ValueError(f"token {token} stands for no text")


def decode(tokens: Iterable[int]) -> str:
    """Return the text of ``tokens``. Raises ValueError as ``decode_one`` does."""
    return "".join(map(decode_one, tokens))


def _encode_line(line: str, ids: list[int]) -> None:
    data = line.encode(errors="replace")
    if len(data) != len(line):
        ids.extend(_chunk_id(chunk) for chunk in _chunks(line))
        return
    whole = len(data) // CHUNK_BYTES
    base = TEXT_BASE + ((CHUNK_BYTES - 1) << 8 * CHUNK_BYTES)
    ids.extend([base + value for value in unpack(f">{whole}I", data[: whole * CHUNK_BYTES])])
    if rest := data[whole * CHUNK_BYTES :]:
        ids.append(_chunk_id(rest))


def _chunks(line: str) -> Iterable[bytes]:
    chunk = b""
    for character in line:
        data = character.encode(errors="replace")
        if len(chunk) + len(data) > CHUNK_BYTES:
            yield chunk
            chunk = b""
        chunk += data
    if chunk:
        yield chunk


def _chunk_id(chunk: bytes) -> int:
    return TEXT_BASE + ((len(chunk) - 1) << 8 * CHUNK_BYTES) + int.from_bytes(chunk, "big")
