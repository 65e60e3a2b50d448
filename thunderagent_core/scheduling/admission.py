"""One synchronous pass over what an event touched: pause what is too much, restore what fits."""

from __future__ import annotations

import math
from heapq import heappop, heappush
from typing import TYPE_CHECKING

from thunderagent_core.scheduling.backend import most_room
from thunderagent_core.scheduling.decisions import Reason
from thunderagent_core.scheduling.state import RETRY_NO_BACKEND_S

if TYPE_CHECKING:
    from collections.abc import Sequence

    from thunderagent_core.scheduling.backend import Backend
    from thunderagent_core.scheduling.program import Program
    from thunderagent_core.scheduling.queue import Lane
    from thunderagent_core.scheduling.state import State

_SETTLE_S = 0.001
"""Added to a computed wake-up in seconds, so that rounding cannot make it fire just too early for ever."""


class Admission:
    """Applies the policy to the state. A program counts where it was chosen at once, before anything wakes."""

    def __init__(self, state: State) -> None:
        self._state = state

    def run(self, now: float) -> None:
        """Pause on the backends that changed, then restore from the queue; restoring can call for more pausing."""
        state = self._state
        changed: dict[str, Backend] = {}
        while touched := state.touched:
            state.touched = {}  # pausing touches as well, and what it freed may serve the queue
            for backend in touched.values():
                if backend.marked:
                    self._relieve(backend, now)
                self._pause_excess(backend, now)
            changed |= touched
        if len(state.queue) == 0:
            return
        self._restore(changed, now)
        for backend in list(state.touched.values()):
            self._pause_excess(backend, now)
        state.touched = {}

    def force(self, program: Program, now: float) -> None:
        """Admit a program whose wait has reached the bound, whatever the load; without any engine it is refused."""
        state = self._state
        if program.backend is not None:
            if program.backend.open:
                state.unmark(program, now, last=True)
            else:  # it leaves all the same, once what is in flight there is over
                state.forward_held(program, now, last=True)
            return
        for request in program.held:
            target = most_room(state.eligible(request.model), now)
            if target is not None:
                state.place(program, target, Reason.WAIT_BOUND, now)
                return
        for request in program.held:
            state.refuse(request, Reason.NO_BACKEND, RETRY_NO_BACKEND_S, now)
        state.waits.end(program, now)
        state.recount(program, now)

    def _relieve(self, backend: Backend, now: float) -> None:
        """Take marks back, latest first, while the pressure that set them is gone."""
        if not backend.open:
            return
        state = self._state
        for program in reversed(list(backend.marked.values())):
            if state.policy.over(backend, now, backend.need(program, now)):
                relief_s = state.policy.relief_s(program, backend, now)
                if relief_s is None:
                    break
                state.reliefs.put(backend.id, now + relief_s + _SETTLE_S)
                return
            state.unmark(program, now)
        state.reliefs.drop(backend.id)

    def _pause_excess(self, backend: Backend, now: float) -> None:
        """Pause or mark victims until the policy is content; what is marked counts as gone already.

        The last program stays: pausing it would free memory for nobody.
        """
        state = self._state
        while len(backend.programs) - len(backend.marked) > 1 and state.policy.over(backend, now):
            victim = backend.victims.first()
            if victim is None:
                return
            state.pause(state.programs[victim[1]], Reason.THRASHING, now)

    def _restore(self, changed: dict[str, Backend], now: float) -> None:
        """Place whoever comes first, over all models; an engine that the first one waits for is kept for it."""
        state = self._state
        kept: set[str] = set()
        heads = state.queue.heads()
        while heads:
            _, number, lane = heappop(heads)
            first = lane.waiting.first()
            if first is None:
                continue
            program = state.programs[first[1]]
            eligible = state.fleet.for_program(lane.model, program.context_tokens)
            candidates = [backend for backend in eligible if backend.id not in kept]
            target = self._target(program, lane, candidates, changed, now)
            if target is not None:
                known = program.pauses or program.steps
                state.place(program, target, Reason.FITS if known else Reason.NEW, now)
                if lane.waiting:
                    heappush(heads, (lane.first_key(), number, lane))
                continue
            if any(backend.id in kept for backend in eligible):
                lane.blocked = None  # it was not offered everything
            if not lane.alone:
                kept.update(backend.id for backend in eligible)

    def _target(
        self, program: Program, lane: Lane, candidates: Sequence[Backend], changed: dict[str, Backend], now: float
    ) -> Backend | None:
        """Ask the policy where to; a program known not to fit is only offered the backends that changed."""
        policy = self._state.policy
        known = lane.blocked == program.id and now < lane.wake_at
        if known:
            candidates = [backend for backend in candidates if backend.id in changed]
        target = policy.choose(program, candidates, now) if candidates else None
        if target is not None:
            return target  # what is known of another program that is blocked stays true: this only adds load
        waits = (policy.wait_s(program, backend, now) for backend in candidates)
        wake_at = min((now + wait + _SETTLE_S for wait in waits if wait is not None), default=math.inf)
        lane.wake_at = min(lane.wake_at, wake_at) if known else wake_at
        lane.blocked = program.id
        return None
