"""Accidents on demand: what the engine does wrong until it is told to stop."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import msgspec

if TYPE_CHECKING:
    from collections.abc import Callable


class Faults(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What goes wrong. Everything off is a healthy engine.

    Args:
        unhealthy: ``/health`` answers 503.
        hang_health: ``/health`` never answers.
        hang_metrics: ``/metrics`` never answers.
        metrics_status: ``/metrics`` answers with this HTTP status and no metrics.
        hang_generation: generation requests are read and never answered.
        generation_status: generation requests are refused with this HTTP status.
        generation_failures: how many requests ``generation_status`` refuses; unlimited where None.
        die_after_tokens: answers break off after this many tokens; 0: before the first byte.
        deaths: how many answers ``die_after_tokens`` breaks off; unlimited where None.
    """

    unhealthy: bool = False
    hang_health: bool = False
    hang_metrics: bool = False
    metrics_status: int | None = None
    hang_generation: bool = False
    generation_status: int | None = None
    generation_failures: int | None = None
    die_after_tokens: int | None = None
    deaths: int | None = None


class FaultSwitch:
    """The faults in force. They may change at any time; a hanging request goes on when its fault is switched off."""

    def __init__(self) -> None:
        self._faults = Faults()
        self._changed = asyncio.Event()

    @property
    def faults(self) -> Faults:
        """The faults in force now."""
        return self._faults

    def set(self, faults: Faults) -> None:
        """Put other faults in force."""
        self._faults = faults
        self._changed.set()
        self._changed = asyncio.Event()

    def update(self, changes: dict[str, Any]) -> None:
        """Change some fields. Raises msgspec.ValidationError for unknown fields and wrong types."""
        self.set(msgspec.convert({**msgspec.to_builtins(self._faults), **changes}, Faults))

    async def hang_while(self, condition: Callable[[Faults], bool]) -> None:
        """Wait until the faults no longer meet ``condition``."""
        while condition(self._faults):
            await self._changed.wait()

    def take_generation_status(self) -> int | None:
        """Return the status to refuse this request with, and count it."""
        faults = self._faults
        if faults.generation_status is None or faults.generation_failures == 0:
            return None
        if faults.generation_failures is not None:
            self.update({"generation_failures": faults.generation_failures - 1})
        return faults.generation_status

    def take_death(self) -> int | None:
        """Return after how many tokens this answer breaks off, and count it; None: it does not."""
        faults = self._faults
        if faults.die_after_tokens is None or faults.deaths == 0:
            return None
        if faults.deaths is not None:
            self.update({"deaths": faults.deaths - 1})
        return faults.die_after_tokens
