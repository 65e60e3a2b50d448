"""Orders, in the imperative. The shell carries them out in the order given; each says why."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Reason(StrEnum):
    """Why a decision was taken."""

    NEW = "new program"
    FITS = "fits"
    WAIT_BOUND = "wait bound reached"
    NEAR = "near the head of the queue"
    RESTORED = "being restored"
    ACTIVE = "active already"
    PLACED = "its program is placed"
    UNTRACKED = "no program id"
    THRASHING = "demand exceeds capacity"
    TTL = "hold time over"
    IDLE = "program idle"
    INTERRUPTED = "program interrupted"
    BACKEND_LOST = "backend lost"
    BACKEND_DRAINING = "backend draining"
    RELEASED = "released"
    LEASE = "lease ran out"
    PARENT = "its parent ended"
    PATIENCE = "client would time out"
    NO_BACKEND = "no healthy backend"
    TOO_LARGE = "context fits no backend"
    STOPPING = "server is stopping"


@dataclass(frozen=True, slots=True)
class Restore:
    """Bind a program to a backend: from now on it counts there. ``moved``: its last cache was elsewhere."""

    program_id: str
    backend_id: str
    reason: Reason
    moved: bool = False


@dataclass(frozen=True, slots=True)
class Forward:
    """Send a request to a backend now. ``program_id`` None: untracked."""

    program_id: str | None
    request_id: str
    backend_id: str

    @property
    def reason(self) -> Reason:
        """Why: there is nothing to it but whether it belongs to a program."""
        return Reason.UNTRACKED if self.program_id is None else Reason.PLACED


@dataclass(frozen=True, slots=True)
class Pause:
    """Unbind a program from its backend: its cache counts as gone and its next request waits."""

    program_id: str
    backend_id: str
    reason: Reason


@dataclass(frozen=True, slots=True)
class Refuse:
    """Answer a held request with an error. ``retry_after_s`` None: permanent."""

    program_id: str | None
    request_id: str
    reason: Reason
    retry_after_s: float | None = None


@dataclass(frozen=True, slots=True)
class Prepare:
    """Make a program's tool environments: it is about to need them."""

    program_id: str
    reason: Reason


@dataclass(frozen=True, slots=True)
class Reclaim:
    """A program is over: give back all that it owned outside the engine."""

    program_id: str
    reason: str


@dataclass(frozen=True, slots=True)
class Detach:
    """A draining backend has nothing in flight: let it go."""

    backend_id: str

    @property
    def reason(self) -> Reason:
        """Why: there is only one."""
        return Reason.BACKEND_DRAINING


Decision = Restore | Forward | Pause | Refuse | Prepare | Reclaim | Detach
