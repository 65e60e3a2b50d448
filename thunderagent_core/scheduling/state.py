"""The scheduler's tables, and the few moves that change them. Every move leaves totals, queue and timers right."""

from __future__ import annotations

from typing import TYPE_CHECKING

from thunderagent_core.scheduling.backend import UNTRACKED, Backend, most_room
from thunderagent_core.scheduling.decisions import Decision, Forward, Pause, Prepare, Reason, Reclaim, Refuse, Restore
from thunderagent_core.scheduling.family import Family
from thunderagent_core.scheduling.fleet import Fleet
from thunderagent_core.scheduling.lazy_heap import LazyHeap
from thunderagent_core.scheduling.preparation import PreparationWindow
from thunderagent_core.scheduling.program import Preparation, Program, Request, Status
from thunderagent_core.scheduling.queue import WaitingQueue
from thunderagent_core.scheduling.tokens import TokenEstimator
from thunderagent_core.scheduling.waits import Waits

if TYPE_CHECKING:
    from thunderagent_core.scheduling.policies.base import Policy
    from thunderagent_core.scheduling.settings import SchedulerSettings

RETRY_SOON_S = 1.0
"""Retry-After for a client whose patience ends: it keeps its place, so it may come back at once."""

RETRY_NO_BACKEND_S = 5.0
"""Retry-After while no engine answers, in seconds."""


class State:
    """Programs, requests, backends, queue and timers; ``out`` collects the decisions of the present event."""

    def __init__(self, policy: Policy, settings: SchedulerSettings) -> None:
        self.policy = policy
        self.settings = settings
        self.programs: dict[str, Program] = {}
        self.requests: dict[str, Request] = {}
        self.fleet = Fleet()
        self.queue = WaitingQueue(settings.max_wait_s / 2)
        self.window = PreparationWindow(settings.prepare_ahead)
        self.tokens = TokenEstimator()
        self.out: list[Decision] = []
        self.draining: set[str] = set()
        self.touched: dict[str, Backend] = {}
        """Backends whose load changed since the last pass."""
        self.waits = Waits(settings.max_wait_s / 2)
        self.leases: LazyHeap[str] = LazyHeap()
        """Programs by a time before which their lease cannot end."""
        self.holds: LazyHeap[str] = LazyHeap()
        """Acting programs by the end of the policy's hold time."""
        self.reliefs: LazyHeap[str] = LazyHeap()
        """Backends by the time at which a program that is marked there may stay after all."""
        self.family = Family()
        self.stranded: dict[str, Program] = {}
        """Placed programs that hold a request for which no engine is open."""

    @property
    def backends(self) -> dict[str, Backend]:
        """Backends by id."""
        return self.fleet.by_id

    # Programs

    def create(self, program_id: str, now: float) -> Program:
        """Add a program, or return the one that there is."""
        program = self.programs.get(program_id)
        if program is None:
            program = Program(program_id, created_at=now, phase_since=now, active_at=now)
            self.programs[program_id] = program
            self.leases.put(program_id, now + self.settings.idle_lease_s)
        return program

    def resume(self, program: Program, now: float) -> None:
        """An interrupted program goes on, so the short lease runs again."""
        program.interrupted = False
        self.leases.put(program.id, now + self.settings.idle_lease_s)

    def terminate(self, program: Program, reason: str, now: float) -> None:
        """End a program, and all that it started."""
        ending = [(program, reason)]
        while ending:
            one, why = ending.pop()
            if one.id not in self.programs:
                continue  # it was its own ancestor
            ending += [(self.programs[child], Reason.PARENT) for child in self.family.children(one.id)]
            self._end(one, why, now)

    def _end(self, program: Program, reason: str, now: float) -> None:
        """End one program: refuse what waits, let what is in flight run on untracked, forget the rest."""
        for request in program.held:
            self.refuse(request, Reason.RELEASED, None, now)
        for request in program.requests.values():
            request.program = None
            self.count_untracked(request)
        if program.backend is not None:
            self._unbind(program)
        program.change(Status.TERMINATED, now, reason)
        del self.programs[program.id]
        self.family.leave(program)
        self._unqueue(program)
        self.stranded.pop(program.id, None)
        for timers in (self.waits.bounds, self.leases, self.holds):
            timers.drop(program.id)
        self.out.append(Reclaim(program.id, reason))

    # Places

    def eligible(self, model: str | None) -> tuple[Backend, ...]:
        """Return the backends to which a request for ``model`` may go now."""
        return self.fleet.choice(model).backends

    def goes_on(self, program: Program) -> bool:
        """Whether a new request of the program need not wait: one marked for memory waits, one on a lost engine not."""
        if program.backend is None:
            return False
        return not program.marked or self.policy.request_level or not program.backend.open

    def place(self, program: Program, backend: Backend, reason: Reason, now: float) -> None:
        """Restore a program on ``backend`` and forward what it holds; at the end of its wait, or refuse it."""
        if program.preparation is Preparation.WANTED:
            self.order(program, Reason.RESTORED, now)
        self._unqueue(program)
        self.window.restored(now)
        moved = program.home is not None and program.home is not backend
        program.moves += moved
        program.change(Status.ACTIVE, now, reason)
        program.backend = program.home = backend
        program.home_generation = backend.generation
        backend.programs[program.id] = program
        self.out.append(Restore(program.id, backend.id, reason, moved))
        self.forward_held(program, now, last=reason is Reason.WAIT_BOUND)

    def pause(self, program: Program, reason: Reason, now: float) -> None:
        """Unbind a program at once, or mark it where something of it is in flight."""
        backend = program.backend
        if backend is None:
            return
        if program.in_flight:
            program.marked = reason
            backend.marked[program.id] = program
            backend.victims.drop(program.id)
            self.recount(program, now)
            return
        self._unbind(program)
        program.pauses += 1
        program.home_until = now + self.settings.home_window_s
        program.change(Status.PAUSED, now, reason)
        self.out.append(Pause(program.id, backend.id, reason))
        self.recount(program, now)

    def unmark(self, program: Program, now: float, *, last: bool = False) -> None:
        """Take back a mark: the program stays, and what it holds goes on."""
        self._clear_mark(program)
        self.forward_held(program, now, last=last)

    def _unbind(self, program: Program) -> None:
        backend = program.backend
        if backend is None:
            return
        self._clear_mark(program)
        del backend.programs[program.id]
        backend.victims.drop(program.id)
        backend.uncount(program.id)
        self.holds.drop(program.id)
        self.touched[backend.id] = backend
        self.stranded.pop(program.id, None)
        program.backend = None

    def _clear_mark(self, program: Program) -> None:
        program.marked = None
        if program.backend is not None:
            program.backend.marked.pop(program.id, None)

    def recount(self, program: Program, now: float) -> None:
        """Bring totals, victims and queue in line with what the program is now."""
        backend = program.backend
        if backend is None:
            self._queue(program, now)
            return
        backend.count(program, now)
        self.touched[backend.id] = backend
        key = None if program.marked else self.policy.pause_key(program)
        if key is not None:
            backend.victims.put(program.id, key)

    def _queue(self, program: Program, now: float) -> None:
        """Put a program that is bound nowhere where it belongs in the queue, or out of it."""
        first = program.first_held
        if first is None:
            self._unqueue(program)
            return
        alone = self.policy.runs_alone(program, self.eligible(first.model))
        key = self.queue.put(program, first.model, self.policy.waiting_key(program), now, alone=alone)
        self.window.put(program, key)

    def _unqueue(self, program: Program) -> None:
        self.queue.drop(program.id)
        self.window.drop(program.id)

    # Tool environments

    def order(self, program: Program, reason: Reason, now: float) -> None:
        """Have a program's environments made."""
        program.preparation, program.ordered_at = Preparation.ORDERED, now
        self.out.append(Prepare(program.id, reason))
        if program.backend is None:
            self.recount(program, now)

    # Requests

    def send(self, request: Request, backend: Backend, now: float) -> None:
        """Forward one request."""
        request.backend = backend
        backend.in_flight[request.id] = request
        self.waits.forwarded(request, now)
        program = request.program
        if program is None:
            self.count_untracked(request)
        self.out.append(Forward(None if program is None else program.id, request.id, backend.id))

    def count_untracked(self, request: Request) -> None:
        """Count a request in flight that belongs to no program, or to none any more."""
        backend = request.backend
        if backend is not None:
            backend.count_untracked(request)
            self.touched[backend.id] = backend

    def forward_held(self, program: Program, now: float, *, last: bool = False) -> None:
        """Send all that an ACTIVE program holds: to its own backend, or past it where it is closed to the request.

        Where no engine is open to a request it stays held, or at the ``last`` is refused.
        """
        home = program.backend
        if home is None:
            return
        for request in program.held:
            target = home if home.open and home.serves(request.model) else self._other(request, now)
            if target is not None:
                self.send(request, target, now)
            elif last:
                self.refuse(request, Reason.NO_BACKEND, RETRY_NO_BACKEND_S, now)
            else:
                self.waits.begin(program, request, now)
        self._note_stranded(program, now)
        self.recount(program, now)

    def _note_stranded(self, program: Program, now: float) -> None:
        """Stop the clock of a placed program of which nothing is held, or remember it until an engine opens."""
        if program.first_held is None:
            self.stranded.pop(program.id, None)
            self.waits.end(program, now)
        else:
            self.stranded[program.id] = program

    def _other(self, request: Request, now: float) -> Backend | None:
        return most_room(self.eligible(request.model), now)

    def refuse(self, request: Request, reason: Reason, retry_after_s: float | None, now: float) -> None:
        """Answer a held request with an error; that is its end."""
        self.detach(request)
        program = request.program
        if program is not None:
            self.end_turn(program, now)
        self.out.append(Refuse(None if program is None else program.id, request.id, reason, retry_after_s))

    def end_turn(self, program: Program, now: float) -> None:
        """With nothing open any more a program is ACTING: what its turn left behind is its context."""
        if program.requests:
            return
        program.settled_tokens = program.peak_tokens or program.settled_tokens
        program.peak_tokens = 0
        program.phase_since = now
        if program.backend is not None and self.policy.hold_s is not None:
            self.holds.put(program.id, now + self.policy.hold_s)

    def detach(self, request: Request) -> None:
        """Take a request out of every table."""
        del self.requests[request.id]
        if request.give_up_at is not None:
            self.waits.patience.drop(request.id)
        if request.backend is not None:
            request.backend.in_flight.pop(request.id, None)
            self.touched[request.backend.id] = request.backend
        program = request.program
        if program is not None:
            program.requests.pop(request.id, None)
            if program.first_held is None:
                self.stranded.pop(program.id, None)
        elif request.backend is not None:
            request.backend.uncount(UNTRACKED + request.id)
