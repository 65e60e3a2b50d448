"""The paper's policy: equations 6 to 11, decided on every event instead of only once each Δt."""

from __future__ import annotations

from typing import TYPE_CHECKING

from thunderagent_core.scheduling.backend import most_room
from thunderagent_core.scheduling.demand import Decay
from thunderagent_core.scheduling.policies.base import cached_at_home
from thunderagent_core.scheduling.program import Phase

if TYPE_CHECKING:
    from collections.abc import Sequence

    from thunderagent_core.scheduling.backend import Backend
    from thunderagent_core.scheduling.program import Program
    from thunderagent_core.scheduling.settings import SchedulerSettings


def thrashing(backend: Backend, now: float, high_watermark: float, extra_tokens: float = 0) -> bool:
    """λ_max·C < Σ_{τ=R} c_p + Σ_{τ=A} c_q·f(t_q): eq 7, and eq 6 where f is 1."""
    return backend.demand(now) + extra_tokens > high_watermark * backend.capacity_tokens


def restore_score(program: Program) -> float:
    """S_restore(P) = 1/c_P + I(τ=R), eq 10: reasoning programs first, shorter first. Highest is restored first."""
    return 1 / program.own_tokens + (program.phase is Phase.REASONING)


def pause_score(program: Program) -> float:
    """S_pause(P) = 1/c_P + I(τ=A), eq 11: acting programs first, shorter first. Highest is paused first.

    Shorter first because recomputing c tokens costs c² (eq 8): many short contexts free ΔC cheaper than few long
    ones (eq 9).
    """
    return 1 / program.own_tokens + (program.phase is Phase.ACTING)


class PaperPolicy:
    """Pause until Σ ≤ λ_max·C; restore while Σ < λ_min·C and the restored program keeps Σ ≤ λ_max·C."""

    name = "paper"
    request_level = False
    hold_s: float | None = None

    def __init__(self, settings: SchedulerSettings) -> None:
        self.decay = Decay(settings.decay_base, settings.decay_interval_s)
        self._high = settings.high_watermark
        self._low = settings.low_watermark

    def waiting_key(self, program: Program) -> float:
        """Order by eq 10."""
        return -restore_score(program)

    def pause_key(self, program: Program) -> float | None:
        """Order by eq 11."""
        return -pause_score(program)

    def over(self, backend: Backend, now: float, extra_tokens: float = 0) -> bool:
        """Test eq 7."""
        return thrashing(backend, now, self._high, extra_tokens)

    def choose(self, program: Program, backends: Sequence[Backend], now: float) -> Backend | None:
        """Prefer the backend that still has the cache, else the one with the most room."""
        home = cached_at_home(program, now)
        if self.runs_alone(program, backends):
            free = [backend for backend in backends if backend.quiet]
        else:
            free = [backend for backend in backends if self._fits(program, backend, now)]
        return home if home in free else most_room(free, now)

    def runs_alone(self, program: Program, backends: Sequence[Backend]) -> bool:
        """Tell whether it exceeds λ_max·C by itself: it waits for a moment at which it has nobody to disturb."""
        return all(backend.alone(program) > self._high * backend.capacity_tokens for backend in backends)

    def _fits(self, program: Program, backend: Backend, now: float) -> bool:
        """Restore while Σ ≤ λ_min·C, if Σ ≤ λ_max·C afterwards."""
        used, capacity = backend.used(now), backend.capacity_tokens
        return used <= self._low * capacity and used + backend.need(program, now) <= self._high * capacity

    def wait_s(self, program: Program, backend: Backend, now: float) -> float | None:
        """Solve the restore condition for the time at which acting programs have decayed enough."""
        below_low = backend.time_until(self._low * backend.capacity_tokens, now)
        below_high = backend.time_until(self._high * backend.capacity_tokens, now, program)
        return None if below_low is None or below_high is None else max(below_low, below_high)

    def relief_s(self, program: Program, backend: Backend, now: float) -> float | None:
        """Solve eq 7 for the time at which there is room for a program that was marked."""
        return backend.time_until(self._high * backend.capacity_tokens, now, program, leaving=False)
