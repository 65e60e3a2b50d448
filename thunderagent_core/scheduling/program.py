"""A program P = ⟨ID, c, T, L, τ, s⟩ and its requests."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from thunderagent_core.scheduling.backend import Backend


class Phase(StrEnum):
    """τ: what the agent is doing. Derived from its open requests, never stored."""

    REASONING = "reasoning"
    ACTING = "acting"


class Status(StrEnum):
    """s: what the scheduler has decided about the program."""

    ACTIVE = "active"
    PAUSED = "paused"
    TERMINATED = "terminated"


class Preparation(StrEnum):
    """How far a program's tool environments are, taken together."""

    NONE = "none"
    """It has none."""
    WANTED = "wanted"
    """It has some that are not made, and nobody was told to make them yet."""
    ORDERED = "ordered"
    READY = "ready"
    FAILED = "failed"


TRANSITIONS: dict[Status, frozenset[Status]] = {
    Status.PAUSED: frozenset({Status.ACTIVE, Status.TERMINATED}),
    Status.ACTIVE: frozenset({Status.PAUSED, Status.TERMINATED}),
    Status.TERMINATED: frozenset(),
}
"""Every legal change of status. A new program starts PAUSED, in the global queue, bound to no backend."""

HISTORY_LENGTH = 16
"""Status changes remembered for each program."""


class IllegalTransitionError(Exception):
    """A status change that ``TRANSITIONS`` does not allow: a bug. Its text holds the program's recent history."""


@dataclass(slots=True, eq=False)
class Request:
    """One open request: waiting for a place (``backend`` None) or in flight at an engine.

    ``tokens`` is its context so far: prompt, estimated until the engine says, and what was generated. ``waited_s`` is
    for how long it had been held when it was last forwarded.
    """

    id: str
    program: Program | None
    model: str | None
    tokens: int
    chars: int
    arrived_at: float
    give_up_at: float | None = None
    backend: Backend | None = None
    generated: int = 0
    waited_s: float = 0.0


@dataclass(slots=True, eq=False)
class Program:
    """One agent run, as the scheduler knows it. Times are in seconds on the scheduler's clock, sizes in tokens.

    Args:
        id: the client's name for the run.
        parent_id: the program that started this one, if any.
        group: programs whose slowest member matters, such as the rollouts of one RL step.
        priority: lower runs earlier.
        registered: its client announced it, rather than only sending requests.
        status: s.
        backend: L, where it is placed while ACTIVE.
        marked: why it is to be paused as soon as nothing of it is in flight; None: it is not.
        wish: why it asked to be paused itself while something of it was open, as it may do a moment too early.
        requests: what is open, by request id.
        settled_tokens: context after its last turn, the largest where requests ran in parallel.
        peak_tokens: the largest context among requests of the present turn that have ended.
        shared_tokens: how much of its first prompt the engine already had from others.
        measured_chars: characters of the last prompt of which the engine told the length.
        measured_tokens: its length in tokens; 0 before any.
        phase_since: when the present phase began.
        active_at: last request, event or end; the lease runs from here.
        waiting_since: since when it waits; None once it was served.
        broken_off_at: when its wait ended without being served; a prompt retry goes on with it.
        home: backend and cache generation of its last placement.
        home_until: until when that cache is taken to be there.
        tool: the tool that runs, as reported by an adapter.
        interrupted: it waits for a person, so the long lease applies.
        preparation: how far its tool environments are.
        ordered_at: when ``Prepare`` was decided last.
    """

    id: str
    parent_id: str | None = None
    group: str | None = None
    priority: int = 0
    registered: bool = False
    status: Status = Status.PAUSED
    backend: Backend | None = None
    marked: str | None = None
    wish: str | None = None
    requests: dict[str, Request] = field(default_factory=dict)
    settled_tokens: int = 0
    peak_tokens: int = 0
    shared_tokens: int = 0
    measured_chars: int = 0
    measured_tokens: int = 0
    phase_since: float = 0.0
    active_at: float = 0.0
    created_at: float = 0.0
    waiting_since: float | None = None
    broken_off_at: float | None = None
    home: Backend | None = None
    home_generation: int = 0
    home_until: float = 0.0
    tool: str | None = None
    interrupted: bool = False
    preparation: Preparation = Preparation.NONE
    ordered_at: float = 0.0
    steps: int = 0
    pauses: int = 0
    moves: int = 0
    waited_s: float = 0.0
    longest_wait_s: float = 0.0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0
    history: tuple[tuple[float, Status, str], ...] = ()

    @property
    def phase(self) -> Phase:
        """τ: REASONING while a request is in flight or waits, else ACTING."""
        return Phase.REASONING if self.requests else Phase.ACTING

    @property
    def context_tokens(self) -> int:
        """c: tokens of the open requests together, else what the last turn left behind."""
        if not self.requests:
            return self.settled_tokens
        tokens = 0
        for request in self.requests.values():  # a generator would cost more than the one request there mostly is
            tokens += request.tokens
        return tokens

    @property
    def own_tokens(self) -> int:
        """C without the prefix that other programs hold as well; at least 1, so that scores stay finite."""
        tokens = self.context_tokens - self.shared_tokens
        return tokens if tokens > 1 else 1  # noqa: FURB136 - asked for several times in every event

    @property
    def in_flight(self) -> bool:
        """Whether an engine is working on one of its requests."""
        return any(request.backend is not None for request in self.requests.values())

    @property
    def held(self) -> list[Request]:
        """Its requests that wait for a place, oldest first."""
        return [request for request in self.requests.values() if request.backend is None]

    @property
    def first_held(self) -> Request | None:
        """The request that has been held for longest, or None."""
        return next((request for request in self.requests.values() if request.backend is None), None)

    def change(self, status: Status, now: float, reason: str) -> None:
        """Set the status. Raises IllegalTransitionError where ``TRANSITIONS`` has no such change."""
        if status not in TRANSITIONS[self.status]:
            raise IllegalTransitionError(f"{self.id}: {self.status} -> {status} ({reason}); before: {self.history}")
        self.status = status
        self.history = (*self.history[1 - HISTORY_LENGTH :], (now, status, reason))
