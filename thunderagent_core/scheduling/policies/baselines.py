"""What the paper is compared with: no scheduling, pinning, a fixed number of programs, a fixed hold time."""

from __future__ import annotations

from typing import TYPE_CHECKING

from thunderagent_core.scheduling.backend import most_room
from thunderagent_core.scheduling.demand import Decay
from thunderagent_core.scheduling.policies.base import cached_at_home, fewest_programs

if TYPE_CHECKING:
    from collections.abc import Sequence

    from thunderagent_core.scheduling.backend import Backend
    from thunderagent_core.scheduling.program import Program
    from thunderagent_core.scheduling.settings import SchedulerSettings


class _Baseline:
    """First come first served, nothing decays, nothing is paused for memory."""

    request_level = False
    hold_s: float | None = None

    def __init__(self, settings: SchedulerSettings) -> None:
        self.settings = settings
        self.decay = Decay(1.0, settings.decay_interval_s)

    def waiting_key(self, program: Program) -> float:
        """Order by arrival."""
        return program.waiting_since or 0.0

    def pause_key(self, program: Program) -> float | None:  # noqa: ARG002 - the protocol's signature
        """No program is a victim."""
        return None

    def over(self, backend: Backend, now: float, extra_tokens: float = 0) -> bool:  # noqa: ARG002 - as above
        """Memory is left to the engine."""
        return False

    def wait_s(self, program: Program, backend: Backend, now: float) -> float | None:  # noqa: ARG002 - as above
        """Only events make room."""
        return None

    def relief_s(self, program: Program, backend: Backend, now: float) -> float | None:  # noqa: ARG002 - as above
        """Nobody is marked for want of memory."""
        return None

    def runs_alone(self, program: Program, backends: Sequence[Backend]) -> bool:  # noqa: ARG002 - as above
        """Size plays no part."""
        return False


class PassthroughPolicy(_Baseline):
    """A plain load balancer: each request goes at once to the backend with the fewest requests in flight."""

    name = "passthrough"
    request_level = True

    def choose(self, program: Program, backends: Sequence[Backend], now: float) -> Backend | None:  # noqa: ARG002
        """Return the backend with the fewest requests in flight."""
        return fewest_requests(backends)


class StickyPolicy(_Baseline):
    """The backend with the fewest programs at first, the same one ever after."""

    name = "sticky"

    def choose(self, program: Program, backends: Sequence[Backend], now: float) -> Backend | None:  # noqa: ARG002
        """Return the program's home while it is open."""
        return program.home if program.home in backends else fewest_programs(backends)


class CapPolicy(_Baseline):
    """At most K programs at once on each backend, first come first served, each from its start to its end."""

    name = "cap"

    def choose(self, program: Program, backends: Sequence[Backend], now: float) -> Backend | None:
        """Prefer the backend that still has the cache, else the one with the fewest programs."""
        free = [backend for backend in backends if len(backend.programs) < self.settings.cap_programs]
        home = cached_at_home(program, now)
        return home if home in free else fewest_programs(free)


class TtlPolicy(_Baseline):
    """Hold an acting program's cache for a fixed time, then let it go; admit first come first served what fits."""

    name = "ttl"

    def __init__(self, settings: SchedulerSettings) -> None:
        super().__init__(settings)
        self.hold_s = settings.ttl_s

    def choose(self, program: Program, backends: Sequence[Backend], now: float) -> Backend | None:
        """Prefer the backend that still has the cache, else the one with the most room."""
        home = cached_at_home(program, now)
        if self.runs_alone(program, backends):
            free = [backend for backend in backends if not backend.programs]
        else:
            free = [backend for backend in backends if self._fits(program, backend, now)]
        return home if home in free else most_room(free, now)

    def runs_alone(self, program: Program, backends: Sequence[Backend]) -> bool:
        """Tell whether it is larger than any pool by itself; nothing is paused for it, so it waits for an empty one."""
        return all(backend.alone(program) > self._limit(backend) for backend in backends)

    def _fits(self, program: Program, backend: Backend, now: float) -> bool:
        return backend.used(now) + backend.need(program, now) <= self._limit(backend)

    def _limit(self, backend: Backend) -> float:
        return self.settings.high_watermark * backend.capacity_tokens


def fewest_requests(backends: Sequence[Backend]) -> Backend | None:
    """Return the backend with the fewest requests in flight, or None for none."""
    return min(backends, key=lambda backend: len(backend.in_flight), default=None)
