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

    def need(self, program: Program, now: float) -> float:
        """Return by how many tokens demand rises where ``program`` comes here, or where its mark is taken back."""
        tokens = program.own_tokens + self._reserve_tokens
        if not program.shared_tokens:
            return tokens
        unshared = program.shared_tokens - self._demand.shared(self._decay.weight(now - self._epoch))
        return tokens + unshared if unshared > 0 else tokens

    def alone(self, program: Program) -> int:
        """Return the demand in tokens if ``program`` were here and nobody else."""
        return program.own_tokens + program.shared_tokens + self._reserve_tokens

    @property
    def quiet(self) -> bool:
        """Whether no program here reasons and no untracked request runs: what there is would only have to be paused."""
        return self._demand.reasoning == 0 and self._demand.leaving == 0

    def time_until(
        self, limit_tokens: float, now: float, program: Program | None = None, *, leaving: bool = True
    ) -> float | None:
        """Seconds until the decay alone brings demand down to ``limit_tokens``; None: it never does.

        With ``program`` it counts as one of those that are here. A prefix that it shares is needed in any case, so it
        does not decay with those who hold it now. ``leaving``: what programs marked for pause hold counts as well.
        """
        tree, shared = self._demand, 0
        room = limit_tokens - tree.reasoning
        if leaving:
            room -= tree.leaving
        if program is not None:
            room -= program.own_tokens + self._reserve_tokens
            shared = program.shared_tokens
        weight = self._decay.weight(now - self._epoch)
        acting, shared_acting = tree.acting * weight, tree.shared_by_acting * weight
        shared = max(shared, tree.shared_by_reasoning)
        if acting + max(shared, shared_acting) <= room:
            return 0.0
        if room <= 0 or room < shared or (room == shared and acting > 0) or self._decay.base <= 1.0:
            return None
        factor = room / (acting + shared_acting) if acting + shared_acting > room else 1.0
        if acting > room - shared:
            factor = min(factor, (room - shared) / acting)
        return math.log(1 / factor, self._decay.base) * self._decay.interval_s

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
            shared = program.shared_tokens and program.shared_tokens * scaled / tokens
            self._demand.put(program.id, acting=scaled, shared_acting=shared)

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
