"""What must hold after every event, whatever the policy; each says which fault it stands against."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .driver import Driver

_ROUNDING_TOKENS = 1e-6
_ROUNDING_S = 1e-3


def waits_are_bounded(driver: Driver) -> None:
    """Fault 7: whoever holds a request is forced in, or refused, by a timer that is armed in time.

    By the driver's own clock no request is held longer than the bound, however often an engine fails to take it.
    """
    scheduler, now = driver.scheduler, driver.scheduler._now
    for request in driver.held:
        assert driver.held_for(request) <= driver.settings.max_wait_s + _ROUNDING_S, request
    deadline = scheduler.next_deadline()
    for program in scheduler.programs.values():
        if program.held:
            assert program.waiting_since is not None
            bound = program.waiting_since + driver.settings.max_wait_s
            assert now <= bound
            assert deadline is not None
            assert deadline <= bound


def no_backend_is_over(driver: Driver) -> None:
    """Eq 7 after the pass: nothing is left to pause, counting what is marked as gone and sparing the last program."""
    policy, now = driver.scheduler.policy, driver.scheduler._now
    for backend in driver.scheduler.backends.values():
        unmarked = len(backend.programs) - len(backend.marked)
        assert unmarked <= 1 or not policy.over(backend, now, -1)


def no_mark_is_needless(driver: Driver) -> None:
    """Fault 1: the latest mark cannot be taken back, and a timer is armed for when decay alone allows it."""
    scheduler, now = driver.scheduler, driver.scheduler._now
    policy, deadline = scheduler.policy, scheduler.next_deadline()
    for backend in scheduler.backends.values():
        if not backend.open or not backend.marked:
            continue
        latest = list(backend.marked.values())[-1]
        assert policy.over(backend, now, backend.need(latest, now) + _ROUNDING_TOKENS), f"{latest.id} may stay"
        relief = policy.relief_s(latest, backend, now)
        assert relief is None or (
            deadline is not None and deadline <= now + relief + 0.002 + _ROUNDING_TOKENS * abs(now)
        )


def nobody_waits_who_would_fit(driver: Driver) -> None:
    """Fault 6: nobody fits where nobody before them waits, and a timer is armed for when decay alone lets them in."""
    scheduler, now = driver.scheduler, driver.scheduler._now
    state, deadline = scheduler._state, scheduler.next_deadline()
    kept: set[str] = set()
    for _, _, lane in sorted(state.queue.heads(), key=lambda head: head[:2]):
        first = lane.waiting.first()
        assert first is not None
        program = scheduler.programs[first[1]]
        eligible = state.fleet.for_program(lane.model, program.context_tokens)
        candidates = [backend for backend in eligible if backend.id not in kept]
        if not lane.alone:
            kept |= {backend.id for backend in eligible}
        if not candidates:
            continue
        assert scheduler.policy.choose(program, candidates, now) is None, f"{program.id} fits"
        waits = [scheduler.policy.wait_s(program, backend, now) for backend in candidates]
        soonest = min((wait for wait in waits if wait is not None), default=math.inf)
        assert deadline is not None
        assert deadline <= now + soonest + 0.002 + _ROUNDING_TOKENS * abs(now)
