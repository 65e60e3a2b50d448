"""A priority queue whose entries can be moved and dropped: old entries stay and are skipped when met."""

from __future__ import annotations

from heapq import heapify, heappop, heappush
from typing import Any, Generic, TypeVar

K = TypeVar("K")


class LazyHeap(Generic[K]):
    """Items by key, smallest first; equal keys come out in the order in which they were put.

    Sorting is put off until somebody asks for the first item: what moves often and is seldom asked for costs one
    dictionary entry each time. Everything costs O(log n) amortised; stale entries never exceed the live ones by much.
    """

    __slots__ = ("_entries", "_heap", "_sequence", "_unsorted")

    def __init__(self) -> None:
        self._heap: list[tuple[Any, int, K]] = []
        self._entries: dict[K, tuple[Any, int, K]] = {}
        self._unsorted: dict[K, tuple[Any, int, K]] = {}
        self._sequence = 0

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, item: K) -> bool:
        return item in self._entries

    def put(self, item: K, key: Any) -> None:
        """Insert ``item`` under ``key``, or move it there."""
        old = self._entries.get(item)
        if old is not None and old[0] == key:
            return
        self._sequence += 1
        self._entries[item] = self._unsorted[item] = (key, self._sequence, item)

    def drop(self, item: K) -> None:
        """Remove ``item`` if it is there."""
        if self._entries.pop(item, None) is not None:
            self._unsorted.pop(item, None)

    def key(self, item: K) -> Any:
        """Return the key of ``item``, or None."""
        entry = self._entries.get(item)
        return None if entry is None else entry[0]

    def first(self) -> tuple[Any, K] | None:
        """Return the smallest key and its item, or None where the heap is empty."""
        if self._unsorted:
            self._sort()
        heap, entries = self._heap, self._entries
        while heap:
            entry = heap[0]
            if entries.get(entry[2]) is entry:
                return entry[0], entry[2]
            heappop(heap)
        return None

    def pop_due(self, now: float) -> K | None:
        """Remove and return the first item whose key is at most ``now``, or None."""
        if not self._entries:
            return None
        first = self.first()
        if first is None or first[0] > now:
            return None
        del self._entries[first[1]]
        return first[1]

    def items(self) -> dict[K, Any]:
        """Return every live item with its key, for checks."""
        return {item: entry[0] for item, entry in self._entries.items()}

    def _sort(self) -> None:
        """Take the latest puts into the heap; build it anew where most of it would be stale or new."""
        unsorted, self._unsorted = self._unsorted, {}
        if len(self._heap) + 4 * len(unsorted) > 2 * len(self._entries) + 32:
            self._heap = list(self._entries.values())
            heapify(self._heap)
        else:
            for entry in unsorted.values():
                heappush(self._heap, entry)
