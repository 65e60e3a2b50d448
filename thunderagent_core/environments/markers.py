"""Finds the marks that a channel's shell writes between the outputs of commands.

A mark is a record separator, a random word that only shell and host know, up to one more word, and a line feed. It may
arrive in pieces; what cannot be part of one is passed on at once.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

_SEPARATOR: Final = b"\x1e"


@dataclass(frozen=True, slots=True)
class Mark:
    """A mark that was found, with the word after its random one."""

    word: str


def new_nonce() -> str:
    """Return a word of 128 random bits that no command can guess."""
    return secrets.token_hex(16)


class Scanner:
    """Takes one stream apart into marks and what lies between them.

    The first mark found must carry the first nonce, every later one the second: a command that reads its own start
    mark back out of the pipe learns nothing of the one that ends it.
    """

    __slots__ = ("_next", "_pending", "_sought")

    def __init__(self, first: str, later: str) -> None:
        self._sought = _SEPARATOR + first.encode()
        self._next = _SEPARATOR + later.encode()
        self._pending = b""

    def feed(self, data: bytes) -> Iterator[bytes | Mark]:
        """Yield what has become certain: output, and marks, in order."""
        data = self._pending + data if self._pending else data
        self._pending = b""
        while (at := data.find(self._sought)) >= 0:
            if at:
                yield data[:at]
            end = data.find(b"\n", at)
            if end < 0:
                self._pending = data[at:]
                return
            word = data[at + len(self._sought) : end].strip().decode("ascii", "replace")
            self._sought = self._next
            data = data[end + 1 :]
            yield Mark(word)
        keep = self._beginning_of_a_mark(data)
        self._pending = data[keep:]
        if keep:
            yield data[:keep]

    def _beginning_of_a_mark(self, data: bytes) -> int:
        """Return where the part at the end begins that may turn out to be a mark; the length where there is none."""
        at = data.rfind(_SEPARATOR, -len(self._sought))
        return at if at >= 0 and self._sought.startswith(data[at:]) else len(data)
