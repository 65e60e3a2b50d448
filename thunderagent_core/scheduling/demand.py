"""Sums over a backend's programs that cost O(log n) to change and nothing to read, and cannot drift.

Each program owns one leaf of a binary tree; every inner node is computed from its two children, never by
adding and subtracting differences. A total is therefore always the sum of what the leaves say, whatever grew,
moved or left in between.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Decay:
    """f(t) = base^(−t / interval_s), the weight of a program that has been acting for t seconds (eq 7).

    The paper shows that memoryless tool times leave no other family than the exponential. That family has a
    second virtue: all weights shrink by the same factor, so a sum taken once stays right but for that factor.
    """

    base: float
    interval_s: float

    def weight(self, acting_s: float) -> float:
        """Return f(t) for ``acting_s`` seconds; it also accepts negative times (weights above 1)."""
        weight: float = self.base ** (-acting_s / self.interval_s)
        return weight


class DemandTree:
    """Leaves of (reasoning, acting, leaving, shared, shared_acting) and their sums (of the last two: the maximum).

    ``reasoning``, ``leaving`` and ``shared`` are tokens; ``acting`` and ``shared_acting`` are tokens scaled by the
    decay since the owner's epoch. A prefix that programs share is there as surely as the surest of its holders is.
    """

    __slots__ = ("_free", "_maxima", "_size", "_slots", "_sums")

    def __init__(self) -> None:
        self._slots: dict[str, int] = {}
        self._resize(8)

    def _resize(self, size: int) -> None:
        self._size = size
        self._sums: tuple[list[Any], ...] = ([0] * (2 * size), [0.0] * (2 * size), [0] * (2 * size))
        self._maxima: tuple[list[Any], ...] = ([0] * (2 * size), [0.0] * (2 * size))
        self._free = list(range(size - 1, len(self._slots) - 1, -1))

    def __len__(self) -> int:
        return len(self._slots)

    def total(self, acting_weight: float) -> float:
        """Return reasoning, acting under its present weight, and what is shared."""
        reasoning, acting, _ = self._sums
        total: float = reasoning[1] + acting[1] * acting_weight + self.shared(acting_weight)
        return total

    def shared(self, acting_weight: float) -> float:
        """Return the largest shared prefix under the present weight, in tokens."""
        tokens, scaled = self._maxima
        decayed = scaled[1] * acting_weight
        shared: float = tokens[1]
        return shared if shared > decayed else decayed  # noqa: FURB136 - asked for in every event

    @property
    def reasoning(self) -> int:
        """Sum over the leaves, in tokens."""
        tokens: int = self._sums[0][1]
        return tokens

    @property
    def acting(self) -> float:
        """Sum over the leaves, in scaled tokens."""
        scaled: float = self._sums[1][1]
        return scaled

    @property
    def leaving(self) -> int:
        """Sum over the leaves, in tokens."""
        tokens: int = self._sums[2][1]
        return tokens

    @property
    def shared_by_reasoning(self) -> int:
        """Maximum over the leaves that do not decay, in tokens."""
        tokens: int = self._maxima[0][1]
        return tokens

    @property
    def shared_by_acting(self) -> float:
        """Maximum over the leaves that decay, in scaled tokens."""
        scaled: float = self._maxima[1][1]
        return scaled

    def put(
        self,
        key: str,
        *,
        reasoning: int = 0,
        acting: float = 0.0,
        leaving: int = 0,
        shared: int = 0,
        shared_acting: float = 0.0,
    ) -> None:
        """Set the leaf of ``key``, making one where there is none."""
        slot = self._slots.get(key)
        if slot is None:
            slot = self._new_slot(key)
        self._write(slot + self._size, (reasoning, acting, leaving), (shared, shared_acting))

    def drop(self, key: str) -> None:
        """Remove the leaf of ``key`` if there is one."""
        slot = self._slots.pop(key, None)
        if slot is not None:
            self._write(slot + self._size, (0, 0.0, 0), (0, 0.0))
            self._free.append(slot)

    def _new_slot(self, key: str) -> int:
        if not self._free:
            self._grow()
        slot = self._free.pop()
        self._slots[key] = slot
        return slot

    def _grow(self) -> None:
        size, columns = self._size, (*self._sums, *self._maxima)
        self._resize(2 * size)
        for column, old in zip((*self._sums, *self._maxima), columns, strict=True):
            column[2 * size : 3 * size] = old[size:]
        for node in range(2 * size - 1, 0, -1):
            for column in self._sums:
                column[node] = column[2 * node] + column[2 * node + 1]
            for column in self._maxima:
                column[node] = max(column[2 * node], column[2 * node + 1])

    def _write(self, node: int, sums: tuple[float, ...], maxima: tuple[float, ...]) -> None:
        """Set a leaf and pull each column that changed up to the root (most writes change two of the five)."""
        for column, value in zip(self._sums, sums, strict=True):
            if column[node] != value:
                _pull_sum(column, node, value)
        for column, value in zip(self._maxima, maxima, strict=True):
            if column[node] != value:
                _pull_max(column, node, value)


def _pull_sum(column: list[Any], node: int, value: float) -> None:
    column[node] = value
    while node > 1:
        node >>= 1
        column[node] = column[2 * node] + column[2 * node + 1]


def _pull_max(column: list[Any], node: int, value: float) -> None:
    column[node] = value
    while node > 1:
        node >>= 1
        left, right = column[2 * node], column[2 * node + 1]
        column[node] = left if left > right else right  # noqa: FURB136 - max() costs a call in this loop
