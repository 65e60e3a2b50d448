"""The clocks of those who are held: their clients' patience, and the bound on every wait."""

from __future__ import annotations

from typing import TYPE_CHECKING

from thunderagent_core.scheduling.lazy_heap import LazyHeap

if TYPE_CHECKING:
    from thunderagent_core.scheduling.program import Program, Request

PLACE_KEPT_S = 60.0
"""Seconds for which a program whose wait was broken off keeps its age: twice the longest Retry-After."""


class Waits:
    """Starts, stops and goes on with the wait of a program.

    Args:
        age_s: seconds of waiting after which a program is looked at: it has aged.
    """

    __slots__ = ("_age_s", "bounds", "patience")

    def __init__(self, age_s: float) -> None:
        self._age_s = age_s
        self.patience: LazyHeap[str] = LazyHeap()
        """Held requests by the time at which their client must have an answer."""
        self.bounds: LazyHeap[str] = LazyHeap()
        """Programs that wait, by the time at which they age, then by that at which they are forced in."""

    def begin(self, program: Program, request: Request, now: float) -> None:
        """Start the clock of a program that holds a request; a wait that was just broken off goes on.

        So does that of a request which had been forwarded to an engine that did not take it.
        """
        if request.give_up_at is not None:
            self.patience.put(request.id, request.give_up_at)
        since, broken_off_at = now - request.waited_s, program.broken_off_at
        over = broken_off_at is not None and now > broken_off_at + PLACE_KEPT_S
        if program.waiting_since is None or over or since < program.waiting_since:
            program.waiting_since = since
            self.bounds.drop(program.id)
        program.broken_off_at = None
        if program.id not in self.bounds:
            self.bounds.put(program.id, program.waiting_since + self._age_s)

    def forwarded(self, request: Request, now: float) -> None:
        """Stop the clock of one request, and note how long it has been held."""
        if request.give_up_at is not None:
            self.patience.drop(request.id)
        program = request.program
        if program is not None and program.waiting_since is not None:
            request.waited_s = now - program.waiting_since

    def break_off(self, program: Program, now: float) -> None:
        """Stop the bound of a program of which nothing is held any more, but let a prompt retry take its place."""
        if program.waiting_since is not None and not program.held:
            self.bounds.drop(program.id)
            program.broken_off_at = now

    def end(self, program: Program, now: float) -> None:
        """Stop the clock of a program of which nothing is held any more, because it is served."""
        if program.waiting_since is None:
            return
        waited = (now if program.broken_off_at is None else program.broken_off_at) - program.waiting_since
        program.waited_s += waited
        program.longest_wait_s = max(program.longest_wait_s, waited)
        program.waiting_since = None
        self.bounds.drop(program.id)
