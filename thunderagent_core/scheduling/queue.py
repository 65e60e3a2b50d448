"""The global waiting queue: one for all backends, ordered by the policy, with a bound that ages."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from heapq import heapify
from typing import TYPE_CHECKING, Any

from thunderagent_core.scheduling.lazy_heap import LazyHeap

if TYPE_CHECKING:
    from collections.abc import Iterator

    from thunderagent_core.scheduling.program import Program


Key = tuple[int, int, float]
"""A place in the queue: aged (0) or not (1), priority, time of arrival or score."""


@dataclass(slots=True, eq=False)
class Lane:
    """Waiting programs that can go to the same backends, because they ask for the same model.

    Those that would have to run alone have a lane of their own: nobody is kept waiting for the moment that suits them.
    Where its first program fitted nowhere, ``blocked`` names it and ``wake_at`` says when time alone may change
    that; until then only backends whose load changed need another look.
    """

    model: str | None
    alone: bool
    waiting: LazyHeap[str] = field(default_factory=LazyHeap)
    blocked: str | None = None
    wake_at: float = math.inf

    def first_key(self) -> Any:
        """Return the key of its first program; None where it holds nobody."""
        first = self.waiting.first()
        return None if first is None else first[0]

    def unblock(self) -> None:
        """Forget what was found out about the first program."""
        self.blocked = None
        self.wake_at = math.inf


class WaitingQueue:
    """Programs that wait for a place. Aged ones come first, in order of arrival; then by priority and score."""

    __slots__ = ("_age_s", "_lane_of", "_lanes")

    def __init__(self, age_s: float) -> None:
        self._age_s = age_s
        self._lanes: dict[tuple[str | None, bool], Lane] = {}
        self._lane_of: dict[str, Lane] = {}

    def __len__(self) -> int:
        return len(self._lane_of)

    def __contains__(self, program_id: str) -> bool:
        return program_id in self._lane_of

    def put(self, program: Program, model: str | None, score: float, now: float, *, alone: bool) -> Key:
        """Insert a program, or move it to where it belongs now, and return its key. Smaller scores come first.

        Args:
            program: who waits.
            model: what its oldest held request asks for.
            score: its place by the policy.
            now: seconds.
            alone: it is too large to run beside others.
        """
        since = now if program.waiting_since is None else program.waiting_since
        aged = now >= since + self._age_s
        key: Key = (0, 0, since) if aged else (1, program.priority, score)
        lane = self._lane_of.get(program.id)
        if lane is not None and (lane.model != model or lane.alone != alone):
            self.drop(program.id)
            lane = None
        if lane is None:
            lane = self._lanes.get((model, alone))
            if lane is None:
                lane = self._lanes[model, alone] = Lane(model, alone)
            self._lane_of[program.id] = lane
        lane.waiting.put(program.id, key)
        if lane.blocked == program.id:
            lane.unblock()  # its size may have changed
        return key

    def drop(self, program_id: str) -> None:
        """Remove a program if it is there."""
        lane = self._lane_of.pop(program_id, None)
        if lane is None:
            return
        lane.waiting.drop(program_id)
        if lane.blocked == program_id:
            lane.unblock()
        if not lane.waiting:
            del self._lanes[lane.model, lane.alone]

    def heads(self) -> list[tuple[Any, int, Lane]]:
        """Return each lane with the key of its first program, as a heap: whoever is first of all comes out first."""
        heads = [(lane.first_key(), number, lane) for number, lane in enumerate(self._lanes.values())]
        heapify(heads)
        return heads

    def unblock(self) -> None:
        """Look again at every lane's first program."""
        for lane in self._lanes.values():
            lane.unblock()

    def wake_at(self) -> float:
        """Return when a blocked lane may move by time alone; infinity for never."""
        wake_at = math.inf
        for lane in self._lanes.values():
            wake_at = min(wake_at, lane.wake_at)
        return wake_at

    def ids(self) -> Iterator[str]:
        """Iterate over everyone who waits, in no order."""
        return iter(self._lane_of)
