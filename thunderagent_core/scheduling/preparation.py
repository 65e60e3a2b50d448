"""Whose tool environments are made while they wait: those near the head of the queue, and no more than are of use."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from thunderagent_core.scheduling.lazy_heap import LazyHeap
from thunderagent_core.scheduling.program import Preparation

if TYPE_CHECKING:
    from thunderagent_core.scheduling.program import Program

_SMOOTHING = 0.2
"""Share of the newest measurement in the running means."""

_MARGIN = 2.0
"""Environments are begun so many times their preparation ahead: one that is late costs more than one too early."""


class PreparationWindow:
    """Waiting programs with environments, in the order of the queue.

    The paper prepares an environment when its program nears the restore threshold: early enough to be ready when the
    program is restored, and not before it is worth its disk. How many programs that are follows from two running means,
    the time that a preparation takes and the time between two restores.

    Args:
        most: programs ahead of their restore for which environments are made, at most; 0: none.
    """

    __slots__ = ("_ahead", "_gap_s", "_latency_s", "_most", "_restored_at", "_wanted")

    def __init__(self, most: int) -> None:
        self._most = most
        self._wanted: LazyHeap[str] = LazyHeap()
        self._ahead: dict[str, None] = {}
        self._latency_s: float | None = None
        self._gap_s: float | None = None
        self._restored_at: float | None = None

    def put(self, program: Program, key: Any) -> None:
        """Take in a waiting program, or move it; ``key`` is its place in the queue."""
        if program.preparation is Preparation.WANTED:
            self._ahead.pop(program.id, None)
            self._wanted.put(program.id, key)
        elif program.preparation is not Preparation.NONE:
            self._wanted.drop(program.id)
            self._ahead[program.id] = None

    def drop(self, program_id: str) -> None:
        """Forget a program that does not wait any more."""
        self._wanted.drop(program_id)
        self._ahead.pop(program_id, None)

    def next(self) -> str | None:
        """Return whose environments should be made now, or None."""
        if not self._wanted or len(self._ahead) >= self.size:
            return None
        first = self._wanted.first()
        return None if first is None else first[1]

    @property
    def size(self) -> int:
        """How many waiting programs have environments made or in the making, at most."""
        if self._latency_s is None or self._gap_s is None or self._gap_s <= 0:
            return self._most
        return min(self._most, max(1, math.ceil(_MARGIN * self._latency_s / self._gap_s)))

    def prepared(self, seconds: float) -> None:
        """Take in how long it took from the order until an environment was ready."""
        self._latency_s = _mean(self._latency_s, seconds)

    def restored(self, now: float) -> None:
        """Take in that a waiting program was restored."""
        if self._restored_at is not None:
            self._gap_s = _mean(self._gap_s, now - self._restored_at)
        self._restored_at = now

    def members(self) -> tuple[set[str], set[str]]:
        """Return who waits for its order and who is ahead, for checks."""
        return set(self._wanted.items()), set(self._ahead)


def _mean(old: float | None, new: float) -> float:
    return new if old is None else old + _SMOOTHING * (new - old)
