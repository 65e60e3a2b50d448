"""What a policy decides, and nothing else: the scheduler keeps the state, the order and the bounds."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence

    from thunderagent_core.scheduling.backend import Backend
    from thunderagent_core.scheduling.demand import Decay
    from thunderagent_core.scheduling.program import Program


class Policy(Protocol):
    """Answers the scheduler's questions from a program and a backend; it holds settings, never state."""

    name: str
    decay: Decay
    """f(t), with which acting programs count."""
    request_level: bool
    """Place each request by itself, as a load balancer does, and hold nothing."""
    hold_s: float | None
    """Seconds for which an acting program keeps its place without any pressure; None: for ever."""

    def waiting_key(self, program: Program) -> float:
        """Return the program's place in the waiting queue; smaller goes first."""
        ...

    def pause_key(self, program: Program) -> float | None:
        """Return the program's place among its backend's victims; smaller is paused first, None never."""
        ...

    def over(self, backend: Backend, now: float, extra_tokens: float = 0) -> bool:
        """Tell whether a program of ``backend`` has to be paused, if it held ``extra_tokens`` more."""
        ...

    def choose(self, program: Program, backends: Sequence[Backend], now: float) -> Backend | None:
        """Return where to place a waiting program; None: it waits. ``backends`` are open and serve its model."""
        ...

    def wait_s(self, program: Program, backend: Backend, now: float) -> float | None:
        """Seconds after which time alone may let ``program`` fit on ``backend``; None: only an event can."""
        ...

    def relief_s(self, program: Program, backend: Backend, now: float) -> float | None:
        """Seconds after which time alone lets ``program``, marked for pause there, stay; None: only an event can."""
        ...

    def runs_alone(self, program: Program, backends: Sequence[Backend]) -> bool:
        """Whether ``program`` is too large to run beside others on any of ``backends``."""
        ...


def cached_at_home(program: Program, now: float) -> Backend | None:
    """Return the backend that is taken to hold the program's cache still, or None."""
    home = program.home
    if home is None or now > program.home_until or program.home_generation != home.generation:
        return None
    return home


def fewest_programs(backends: Sequence[Backend]) -> Backend | None:
    """Return the backend with the fewest programs, or None for none."""
    return min(backends, key=lambda backend: len(backend.programs), default=None)
