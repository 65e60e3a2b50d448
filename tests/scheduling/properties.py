"""What must hold after every event, whatever the policy; each says which fault it stands against."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .driver import Driver

_ROUNDING_TOKENS = 1e-6


def waits_are_bounded(driver: Driver) -> None:
    """Fault 7: whoever holds a request is forced in, or refused, by a timer that is armed in time."""
    scheduler, now = driver.scheduler, driver.scheduler._now
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


def nobody_waits_who_would_fit(driver: Driver) -> None:
    """Fault 6: the first in each lane fits nowhere, and a timer is armed for when decay alone would let it in."""
    scheduler, now = driver.scheduler, driver.scheduler._now
    state, deadline = scheduler._state, scheduler.next_deadline()
    for lane in state.queue.lanes():
        first = lane.waiting.first()
        assert first is not None
        program = scheduler.programs[first[1]]
        eligible = state.eligible(program.model)
        if not eligible:
            continue
        assert scheduler.policy.choose(program, eligible, now) is None, f"{program.id} fits"
        waits = [scheduler.policy.wait_s(program, backend, now) for backend in eligible]
        soonest = min((wait for wait in waits if wait is not None), default=math.inf)
        assert deadline is not None
        assert deadline <= now + soonest + 0.002 + _ROUNDING_TOKENS * abs(now)
