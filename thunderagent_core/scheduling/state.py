"""The scheduler's tables, and the few moves that change them. Every move leaves totals, queue and timers right."""

from __future__ import annotations

from typing import TYPE_CHECKING

from thunderagent_core.scheduling.backend import UNTRACKED, Backend, most_room
from thunderagent_core.scheduling.decisions import Decision, Forward, Pause, Reason, Reclaim, Refuse, Restore
from thunderagent_core.scheduling.fleet import Fleet
from thunderagent_core.scheduling.lazy_heap import LazyHeap
from thunderagent_core.scheduling.program import Program, Request, Status
from thunderagent_core.scheduling.queue import WaitingQueue
from thunderagent_core.scheduling.tokens import TokenEstimator

if TYPE_CHECKING:
    from thunderagent_core.scheduling.policies.base import Policy
    from thunderagent_core.scheduling.settings import SchedulerSettings

RETRY_SOON_S = 1.0
"""Retry-After for a client whose patience ends: it keeps its place, so it may come back at once."""

RETRY_NO_BACKEND_S = 5.0
"""Retry-After while no engine answers, in seconds."""

PLACE_KEPT_S = 60.0
"""Seconds for which a program whose wait was broken off keeps its age: twice the longest Retry-After."""


class State:
    """Programs, requests, backends, queue and timers; ``out`` collects the decisions of the present event."""

    def __init__(self, policy: Policy, settings: SchedulerSettings) -> None:
        self.policy = policy
        self.settings = settings
        self.programs: dict[str, Program] = {}
        self.requests: dict[str, Request] = {}
        self.fleet = Fleet()
        self.queue = WaitingQueue(settings.max_wait_s / 2)
        self.tokens = TokenEstimator()
        self.out: list[Decision] = []
        self.draining: set[str] = set()
        self.touched: dict[str, Backend] = {}
        """Backends whose load changed since the last pass."""
        self.patience: LazyHeap[str] = LazyHeap()
        """Held requests by the time at which their client must have an answer."""
        self.bounds: LazyHeap[str] = LazyHeap()
        """Programs that wait, by the time at which they age, then by that at which they are forced in."""
        self.leases: LazyHeap[str] = LazyHeap()
        """Programs by a time before which their lease cannot end."""
        self.holds: LazyHeap[str] = LazyHeap()
        """Acting programs by the end of the policy's hold time."""

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
        """End a program: refuse what waits, let what is in flight run on untracked, forget the rest."""
        for request in program.held:
            self.refuse(request, Reason.RELEASED, None, now)
        for request in program.requests.values():
            request.program = None
            self.count_untracked(request)
        if program.backend is not None:
            self._unbind(program)
        program.change(Status.TERMINATED, now, reason)
        del self.programs[program.id]
        self.queue.drop(program.id)
        for timers in (self.bounds, self.leases, self.holds):
            timers.drop(program.id)
        self.out.append(Reclaim(program.id, reason))

    # Places

    def eligible(self, model: str | None) -> tuple[Backend, ...]:
        """Return the backends to which a request for ``model`` may go now."""
        return self.fleet.choice(model).backends

    def goes_on(self, program: Program) -> bool:
        """Whether a new request of the program need not wait."""
        return program.status is Status.ACTIVE and (not program.marked or self.policy.request_level)

    def place(self, program: Program, backend: Backend, reason: Reason, now: float) -> None:
        """Restore a program on ``backend`` and forward what it holds."""
        self.queue.drop(program.id)
        moved = program.home is not None and program.home is not backend
        program.moves += moved
        program.change(Status.ACTIVE, now, reason)
        program.backend = program.home = backend
        program.home_generation = backend.generation
        backend.programs[program.id] = program
        self.out.append(Restore(program.id, backend.id, reason, moved))
        self.forward_held(program, now)

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

    def unmark(self, program: Program, now: float) -> None:
        """Take back a mark: the program stays, and what it holds goes on."""
        self._clear_mark(program)
        self.forward_held(program, now)

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
        program.backend = None

    def _clear_mark(self, program: Program) -> None:
        program.marked = None
        if program.backend is not None:
            program.backend.marked.pop(program.id, None)

    def recount(self, program: Program, now: float) -> None:
        """Bring totals, victims and queue in line with what the program is now."""
        backend = program.backend
        if backend is None:
            if program.requests:  # none of them is in flight, or it would be bound
                self.queue.put(program, self.policy.waiting_key(program), now)
            else:
                self.queue.drop(program.id)
            return
        backend.count(program, now)
        self.touched[backend.id] = backend
        key = None if program.marked else self.policy.pause_key(program)
        if key is not None:
            backend.victims.put(program.id, key)

    # Requests

    def send(self, request: Request, backend: Backend) -> None:
        """Forward one request."""
        request.backend = backend
        backend.in_flight[request.id] = request
        if request.give_up_at is not None:
            self.patience.drop(request.id)
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

    def forward_held(self, program: Program, now: float) -> None:
        """Send all that an ACTIVE program holds: to its own backend, or past it where it is closed to the request."""
        home = program.backend
        if home is None:
            return
        for request in program.held:
            target = home if home.open and home.serves(request.model) else self._other(request, now)
            if target is None:
                self.refuse(request, Reason.NO_BACKEND, RETRY_NO_BACKEND_S, now)
            else:
                self.send(request, target)
        self.end_wait(program, now)
        self.recount(program, now)

    def _other(self, request: Request, now: float) -> Backend | None:
        return most_room(self.eligible(request.model), now)

    def hold(self, program: Program, now: float) -> None:
        """Start the clock of a program that has something held; a wait that was just broken off goes on."""
        broken_off_at = program.broken_off_at
        if program.waiting_since is None or (broken_off_at is not None and now > broken_off_at + PLACE_KEPT_S):
            program.waiting_since = now
        program.broken_off_at = None
        if program.id not in self.bounds:
            self.bounds.put(program.id, program.waiting_since + self.settings.max_wait_s / 2)

    def keep_place(self, program: Program, now: float) -> None:
        """Stop the bound of a program of which nothing is held any more, but let a prompt retry take its place."""
        if program.waiting_since is not None and not program.held:
            self.bounds.drop(program.id)
            program.broken_off_at = now

    def end_wait(self, program: Program, now: float) -> None:
        """Stop the clock of a program of which nothing is held any more."""
        if program.waiting_since is None:
            return
        waited = (now if program.broken_off_at is None else program.broken_off_at) - program.waiting_since
        program.waited_s += waited
        program.longest_wait_s = max(program.longest_wait_s, waited)
        program.waiting_since = None
        self.bounds.drop(program.id)

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
            self.patience.drop(request.id)
        if request.backend is not None:
            request.backend.in_flight.pop(request.id, None)
            self.touched[request.backend.id] = request.backend
        if request.program is not None:
            request.program.requests.pop(request.id, None)
        elif request.backend is not None:
            request.backend.uncount(UNTRACKED + request.id)
