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
    """Leaves of (reasoning, acting, leaving, shared) and their sums (``shared``: the maximum).

    ``reasoning`` and ``leaving`` are tokens; ``acting`` is tokens scaled by the decay since the owner's epoch.
    """

    __slots__ = ("_acting", "_free", "_leaving", "_reasoning", "_shared", "_size", "_slots")

    def __init__(self) -> None:
        self._slots: dict[str, int] = {}
        self._resize(8)

    def _resize(self, size: int) -> None:
        self._size = size
        self._reasoning = [0] * (2 * size)
        self._acting = [0.0] * (2 * size)
        self._leaving = [0] * (2 * size)
        self._shared = [0] * (2 * size)
        self._free = list(range(size - 1, len(self._slots) - 1, -1))

    def __len__(self) -> int:
        return len(self._slots)

    def total(self, acting_weight: float) -> float:
        """Return reasoning plus shared plus acting under its present weight."""
        return self._reasoning[1] + self._shared[1] + self._acting[1] * acting_weight

    @property
    def reasoning(self) -> int:
        """Sum over the leaves, in tokens."""
        return self._reasoning[1]

    @property
    def acting(self) -> float:
        """Sum over the leaves, in scaled tokens."""
        return self._acting[1]

    @property
    def leaving(self) -> int:
        """Sum over the leaves, in tokens."""
        return self._leaving[1]

    @property
    def shared(self) -> int:
        """Maximum over the leaves, in tokens."""
        return self._shared[1]

    def put(self, key: str, *, reasoning: int = 0, acting: float = 0.0, leaving: int = 0, shared: int = 0) -> None:
        """Set the leaf of ``key``, making one where there is none."""
        slot = self._slots.get(key)
        if slot is None:
            slot = self._new_slot(key)
        self._write(slot + self._size, reasoning, acting, leaving, shared)

    def drop(self, key: str) -> None:
        """Remove the leaf of ``key`` if there is one."""
        slot = self._slots.pop(key, None)
        if slot is not None:
            self._write(slot + self._size, 0, 0.0, 0, 0)
            self._free.append(slot)

    def _new_slot(self, key: str) -> int:
        if not self._free:
            self._grow()
        slot = self._free.pop()
        self._slots[key] = slot
        return slot

    def _grow(self) -> None:
        size = self._size
        leaves = [column[size : 2 * size] for column in self._columns()]
        self._resize(2 * size)
        for column, values in zip(self._columns(), leaves, strict=True):
            column[2 * size : 3 * size] = values
        for node in range(2 * size - 1, 0, -1):
            self._pull(node)

    def _columns(self) -> tuple[list[Any], ...]:
        return self._reasoning, self._acting, self._leaving, self._shared

    def _pull(self, node: int) -> None:
        left, right = 2 * node, 2 * node + 1
        self._reasoning[node] = self._reasoning[left] + self._reasoning[right]
        self._acting[node] = self._acting[left] + self._acting[right]
        self._leaving[node] = self._leaving[left] + self._leaving[right]
        self._shared[node] = max(self._shared[left], self._shared[right])

    def _write(self, node: int, reasoning: int, acting: float, leaving: int, shared: int) -> None:
        """Set a leaf and pull each column that changed up to the root (most writes change two of the four)."""
        if self._reasoning[node] != reasoning:
            _pull_sum(self._reasoning, node, reasoning)
        if self._acting[node] != acting:
            _pull_sum(self._acting, node, acting)
        if self._leaving[node] != leaving:
            _pull_sum(self._leaving, node, leaving)
        if self._shared[node] != shared:
            _pull_max(self._shared, node, shared)


def _pull_sum(column: list[Any], node: int, value: float) -> None:
    column[node] = value
    while node > 1:
        node >>= 1
        column[node] = column[2 * node] + column[2 * node + 1]


def _pull_max(column: list[int], node: int, value: int) -> None:
    column[node] = value
    while node > 1:
        node >>= 1
        left, right = column[2 * node], column[2 * node + 1]
        column[node] = left if left > right else right  # noqa: FURB136 - max() costs a call in this loop
