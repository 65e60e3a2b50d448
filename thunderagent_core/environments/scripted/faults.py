"""What goes wrong in a scripted world: which operation, at which moment, and how."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Final

from thunderagent_core.environments.base import ProviderError, ProviderUnavailableError

if TYPE_CHECKING:
    import asyncio


class Crash(BaseException):
    """The process that uses the provider is killed at this point: nothing of it may run on."""


class Moment(StrEnum):
    """When a fault shows, seen from the effect of the operation."""

    BEFORE = "before"
    HALFWAY = "halfway"
    """After the first of two steps, for those operations that have two: see ``TWO_STEPS``."""
    AFTER = "after"
    """The effect is complete, but the caller does not learn of it."""


class How(StrEnum):
    """What a fault does."""

    FAIL = "fail"
    """Raise ProviderError."""
    UNAVAILABLE = "unavailable"
    """Raise ProviderUnavailableError."""
    CRASH = "crash"
    """Raise Crash."""
    WAIT = "wait"
    """Go on only when the gate opens."""
    FORGET = "forget"
    """The environment vanishes, as if somebody had removed it; the operation goes on and succeeds or fails."""


TWO_STEPS: Final = frozenset({"create", "snapshot", "destroy"})
OPERATIONS: Final = TWO_STEPS | {
    "rooms", "look", "start", "spawn", "freeze", "thaw", "snapshot_is_whole", "drop_snapshot", "survey", "disk_bytes",
    "pull", "stored_image", "drop_image",
}  # fmt: skip


@dataclass(slots=True, kw_only=True)
class Fault:
    """A fault that waits for its operation.

    Args:
        operation: a method of ``Provider``.
        how: what it does.
        moment: when.
        times: how often; it is forgotten afterwards.
        handle: only for this environment or snapshot; None: for any.
        gate: for WAIT; whoever opens it lets the operation go on.
        code: of the ProviderError that FAIL raises.
        permanent: of the same.
    """

    operation: str
    how: How
    moment: Moment = Moment.BEFORE
    times: int = 1
    handle: str | None = None
    gate: asyncio.Event | None = None
    code: str = "provider_error"
    permanent: bool = False

    def __post_init__(self) -> None:
        if self.operation not in OPERATIONS:
            raise ValueError(f"{self.operation!r} is none of {', '.join(sorted(OPERATIONS))}")
        if self.moment is Moment.HALFWAY and self.operation not in TWO_STEPS:
            raise ValueError(f"{self.operation} has no half way")
        if (self.how is How.WAIT) != (self.gate is not None):
            raise ValueError("a gate belongs to WAIT, and WAIT needs one")

    async def strike(self) -> None:
        """Raise or wait, as the fault says. FORGET is the world's affair."""
        where = f"{self.operation}, {self.moment} its effect"
        match self.how:
            case How.FAIL:
                raise ProviderError(f"as scripted: {where}", code=self.code, permanent=self.permanent)
            case How.UNAVAILABLE:
                raise ProviderUnavailableError(f"as scripted: {where}")
            case How.CRASH:
                raise Crash(where)
            case How.WAIT:
                assert self.gate is not None  # noqa: S101 - checked above
                await self.gate.wait()
            case How.FORGET:
                pass


class Faults:
    """The plan of what is yet to go wrong."""

    def __init__(self) -> None:
        self._waiting: list[Fault] = []

    def add(self, fault: Fault) -> Fault:
        """Let it happen at the next opportunity, after those added before for the same."""
        self._waiting.append(fault)
        return fault

    def clear(self) -> None:
        """Let nothing go wrong any more."""
        self._waiting.clear()

    def take(self, operation: str, moment: Moment, handle: str) -> Fault | None:
        """Return the fault that strikes here and now, and count it."""
        for fault in self._waiting:
            here = fault.operation == operation and fault.moment is moment
            if here and fault.handle in {None, handle}:
                fault.times -= 1
                if fault.times <= 0:
                    self._waiting.remove(fault)
                return fault
        return None
