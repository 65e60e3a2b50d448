"""One engine replica: its pool of C tokens and the demand of the programs that are bound to it."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from thunderagent_core.scheduling.demand import Decay, DemandTree
from thunderagent_core.scheduling.lazy_heap import LazyHeap

if TYPE_CHECKING:
    from collections.abc import Iterable

    from thunderagent_core.scheduling.program import Program, Request

_REBASE_DOUBLINGS = 500.0
"""Scaled weights may grow by 2^500 before the epoch moves; doubles end at 2^1023."""

UNTRACKED = "\x00"
"""Prefix of the keys of untracked requests; program ids hold no control characters."""


class Backend:
    """An engine as the scheduler sees it. Sizes in tokens, times in seconds on the scheduler's clock."""

    __slots__ = (
        "_decay",
        "_demand",
        "_epoch",
        "_epoch_s",
        "_reserve_tokens",
        "capacity_tokens",
        "draining",
        "generation",
        "healthy",
        "id",
        "in_flight",
        "marked",
        "models",
        "programs",
        "victims",
    )

    def __init__(self, backend_id: str, decay: Decay, reserve_tokens: int, now: float) -> None:
        self.id = backend_id
        self._reserve_tokens = reserve_tokens
        self.capacity_tokens = 0
        self.models: frozenset[str] = frozenset()
        self.healthy = False
        self.draining = False
        self.generation = 0
        """Rises each time the engine is lost: what was cached in an earlier generation is gone."""
        self.programs: dict[str, Program] = {}
        self.in_flight: dict[str, Request] = {}
        self.marked: dict[str, Program] = {}
        """Programs to be paused once nothing of them is in flight, in the order in which they were marked."""
        self.victims: LazyHeap[str] = LazyHeap()
        """Programs that may be paused, best victim first."""
        self._decay = decay
        self._epoch = now
        doublings_each_s = math.log2(decay.base) / decay.interval_s
        self._epoch_s = _REBASE_DOUBLINGS / doublings_each_s if doublings_each_s > 0 else math.inf
        self._demand = DemandTree()

    def serves(self, model: str | None) -> bool:
        """Whether a request for ``model`` may be sent here; an engine that lists no models takes any."""
        return model is None or not self.models or model in self.models

    @property
    def open(self) -> bool:
        """Whether programs may be placed here now."""
        return self.healthy and not self.draining

    def demand(self, now: float) -> float:
        """Return Σ_{τ=R} c_p + Σ_{τ=A} c_q·f(t_q), the right side of eq 7, without programs marked for pause."""
        return self._demand.total(self._decay.weight(now - self._epoch))

    @property
    def leaving(self) -> int:
        """Tokens that programs marked for pause still hold until their requests end."""
        return self._demand.leaving

    def used(self, now: float) -> float:
        """Return demand plus leaving: what a program that comes here finds."""
        return self._demand.leaving + self._demand.total(self._decay.weight(now - self._epoch))

    def need(self, program: Program) -> int:
        """Return by how many tokens demand rises where ``program`` comes here, or where its mark is taken back."""
        tokens = program.own_tokens + self._reserve_tokens
        unshared = program.shared_tokens - self._demand.shared
        return tokens + unshared if unshared > 0 else tokens

    def time_until(self, room_tokens: float, now: float) -> float | None:
        """Seconds until the decay alone brings demand plus leaving down to ``room_tokens``; None: it never does."""
        tree = self._demand
        fixed = tree.reasoning + tree.shared + tree.leaving
        acting = tree.acting * self._decay.weight(now - self._epoch)
        if fixed + acting <= room_tokens:
            return 0.0
        if fixed >= room_tokens or self._decay.base <= 1.0:
            return None
        return math.log(acting / (room_tokens - fixed), self._decay.base) * self._decay.interval_s

    def count(self, program: Program, now: float) -> None:
        """Count a bound program by what it does now: leaving where marked, else reasoning or acting."""
        if now - self._epoch > self._epoch_s:
            self._rebase(now)
        self._count(program)

    def count_untracked(self, request: Request) -> None:
        """Count a request that belongs to no program while it is in flight."""
        self._demand.put(UNTRACKED + request.id, reasoning=request.tokens)

    def _count(self, program: Program) -> None:
        tokens = program.own_tokens + self._reserve_tokens
        if program.marked:
            self._demand.put(program.id, leaving=tokens, shared=program.shared_tokens)
        elif program.requests:
            self._demand.put(program.id, reasoning=tokens, shared=program.shared_tokens)
        else:
            scaled = tokens * self._decay.weight(self._epoch - program.phase_since)
            self._demand.put(program.id, acting=scaled, shared=program.shared_tokens)

    def uncount(self, key: str) -> None:
        """Stop counting what was counted under ``key``."""
        self._demand.drop(key)

    def _rebase(self, now: float) -> None:
        """Take weights relative to ``now`` from here on, before they outgrow what a double holds."""
        self._epoch = now
        for program in self.programs.values():
            self._count(program)


def most_room(backends: Iterable[Backend], now: float) -> Backend | None:
    """Return the backend with the most free tokens (negative where overcommitted), or None for none."""
    best, best_room = None, 0.0
    for backend in backends:
        room = backend.capacity_tokens - backend.used(now)
        if best is None or room > best_room:
            best, best_room = backend, room
    return best
