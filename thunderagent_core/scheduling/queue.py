"""The global waiting queue: one for all backends, ordered by the policy, with a bound that ages."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from thunderagent_core.scheduling.lazy_heap import LazyHeap

if TYPE_CHECKING:
    from collections.abc import Iterator

    from thunderagent_core.scheduling.program import Program


@dataclass(slots=True, eq=False)
class Lane:
    """Waiting programs that can go to the same backends, because they ask for the same model.

    Where its first program fitted nowhere, ``blocked`` names it and ``wake_at`` says when time alone may change
    that; until then only backends whose load changed need another look.
    """

    model: str | None
    waiting: LazyHeap[str] = field(default_factory=LazyHeap)
    blocked: str | None = None
    wake_at: float = math.inf

    def unblock(self) -> None:
        """Forget what was found out about the first program."""
        self.blocked = None
        self.wake_at = math.inf


class WaitingQueue:
    """Programs that wait for a place. Aged ones come first, in order of arrival; then by priority and score."""

    __slots__ = ("_age_s", "_lane_of", "_lanes")

    def __init__(self, age_s: float) -> None:
        self._age_s = age_s
        self._lanes: dict[str | None, Lane] = {}
        self._lane_of: dict[str, Lane] = {}

    def __len__(self) -> int:
        return len(self._lane_of)

    def __contains__(self, program_id: str) -> bool:
        return program_id in self._lane_of

    def put(self, program: Program, score: float, now: float) -> None:
        """Insert a program, or move it to where it belongs now. Smaller scores come first."""
        since = now if program.waiting_since is None else program.waiting_since
        aged = now >= since + self._age_s
        key = (0, 0, since) if aged else (1, program.priority, score)
        lane = self._lane_of.get(program.id)
        if lane is not None and lane.model != program.model:
            self.drop(program.id)
            lane = None
        if lane is None:
            lane = self._lanes.get(program.model)
            if lane is None:
                lane = self._lanes[program.model] = Lane(program.model)
            self._lane_of[program.id] = lane
        lane.waiting.put(program.id, key)
        if lane.blocked == program.id:
            lane.unblock()  # its size may have changed

    def drop(self, program_id: str) -> None:
        """Remove a program if it is there."""
        lane = self._lane_of.pop(program_id, None)
        if lane is None:
            return
        lane.waiting.drop(program_id)
        if lane.blocked == program_id:
            lane.unblock()
        if not lane.waiting:
            del self._lanes[lane.model]

    def lanes(self) -> list[Lane]:
        """Return the lanes that hold anybody."""
        return list(self._lanes.values())

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
