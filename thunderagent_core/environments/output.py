"""What is kept of a command's output: its beginning, its end, and how much lay between."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from thunderagent_core.environments.base import Stream


@dataclass(frozen=True, slots=True)
class Output:
    """A piece of what a command wrote, in order within its stream."""

    stream: Stream
    data: bytes


class HeadTail:
    """Lets the first half of a limit through at once and keeps the last half of it back until the end.

    Args:
        limit_bytes: bytes that are passed on in all; 0 passes nothing on.
    """

    __slots__ = ("_head_room", "_tail", "_tail_limit", "dropped")

    def __init__(self, limit_bytes: int) -> None:
        self._head_room = limit_bytes - limit_bytes // 2
        self._tail_limit = limit_bytes // 2
        self._tail = bytearray()
        self.dropped = 0
        """Bytes given up between head and tail so far."""

    def feed(self, data: bytes) -> bytes:
        """Take the next output and return what of it belongs to the head."""
        head = data[: self._head_room]
        self._head_room -= len(head)
        self._tail += data[len(head) :]
        excess = len(self._tail) - self._tail_limit
        if excess > 0:
            del self._tail[:excess]
            self.dropped += excess
        return head

    def finish(self) -> bytes:
        """Return the tail."""
        tail = bytes(self._tail)
        self._tail.clear()
        return tail
