"""Invariants, checked from scratch: what is kept in order must equal what a scan of all programs finds."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from thunderagent_core.scheduling.program import Phase, Preparation, Program, Status

if TYPE_CHECKING:
    from thunderagent_core.scheduling.backend import Backend
    from thunderagent_core.scheduling.demand import Decay
    from thunderagent_core.scheduling.state import State

_RELATIVE = 1e-6
_ABSOLUTE_TOKENS = 1e-3


def check_state(state: State, now: float) -> None:
    """Raise AssertionError where any derived structure disagrees with the programs themselves."""
    for program in state.programs.values():
        _check_program(state, program, now)
    for backend in state.backends.values():
        _check_backend(state, backend, now)
    _check_requests(state)
    assert set(state.queue.ids()) == {p.id for p in state.programs.values() if p.backend is None and p.requests}
    _check_preparation(state)
    children = {(p.parent_id, p.id) for p in state.programs.values() if p.parent_id is not None}
    assert state.family.pairs() == children
    assert set(state.leases.items()) == set(state.programs), "every program has a lease"
    assert not state.touched, "an event leaves nothing half done"
    for program in state.stranded.values():
        assert program.backend is not None
        assert program.held, f"{program.id} holds nothing"


def _check_preparation(state: State) -> None:
    waiting = [p for p in state.programs.values() if p.id in state.queue and p.preparation is not Preparation.NONE]
    wanted = {p.id for p in waiting if p.preparation is Preparation.WANTED}
    assert state.window.members() == (wanted, {p.id for p in waiting} - wanted)
    assert state.window.next() is None, "an environment that is wanted is ordered"


def _check_program(state: State, program: Program, now: float) -> None:
    assert program.status is not Status.TERMINATED, f"{program.id} has ended"
    assert (program.status is Status.ACTIVE) == (program.backend is not None), f"{program.id}: {program.history}"
    assert (program.phase is Phase.REASONING) == bool(program.requests)
    if program.backend is not None:
        assert state.backends.get(program.backend.id) is program.backend
        assert program.backend.programs.get(program.id) is program
        reason = program.marked or program.id in state.stranded
        assert not program.held or reason, f"{program.id} holds a request without a reason"
    else:
        assert not program.in_flight, f"{program.id} is unbound with a request in flight"
        assert program.marked is None
    if program.held:
        assert program.waiting_since is not None
        assert now <= program.waiting_since + state.settings.max_wait_s, f"{program.id} waits past the bound"
        assert program.id in state.waits.bounds


def _check_backend(state: State, backend: Backend, now: float) -> None:
    assert set(backend.marked) == {p.id for p in backend.programs.values() if p.marked}
    assert backend.in_flight == {r.id: r for r in state.requests.values() if r.backend is backend}
    reserve = state.settings.growth_reserve_tokens
    decay = state.policy.decay
    expected = max((_surely_shared(p, decay, now) for p in backend.programs.values()), default=0.0)
    leaving = 0
    for program in backend.programs.values():
        tokens = program.own_tokens + reserve
        if program.marked:
            leaving += tokens
        elif program.requests:
            expected += tokens
        else:
            expected += tokens * decay.weight(now - program.phase_since)
    expected += sum(r.tokens for r in backend.in_flight.values() if r.program is None)
    assert math.isclose(backend.demand(now), expected, rel_tol=_RELATIVE, abs_tol=_ABSOLUTE_TOKENS), (
        f"{backend.id}: counted {backend.demand(now)}, the programs sum to {expected}"
    )
    assert backend.leaving == leaving
    victims = {
        p.id: key for p in backend.programs.values() if not p.marked and (key := state.policy.pause_key(p)) is not None
    }
    assert backend.victims.items() == victims


def _surely_shared(program: Program, decay: Decay, now: float) -> float:
    """Return a program's shared prefix in tokens, weighted as the program is."""
    fixed = program.marked or program.requests
    return program.shared_tokens * (1.0 if fixed else decay.weight(now - program.phase_since))


def _check_requests(state: State) -> None:
    for request in state.requests.values():
        program = request.program
        if program is None:
            assert request.backend is not None, f"{request.id} is untracked, so it is never held"
        else:
            assert program.requests.get(request.id) is request
            assert state.programs.get(program.id) is program
    owned = sum(len(program.requests) for program in state.programs.values())
    untracked = sum(request.program is None for request in state.requests.values())
    assert owned + untracked == len(state.requests)
