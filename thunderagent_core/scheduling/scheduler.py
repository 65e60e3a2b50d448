"""The scheduler: ``handle(event, now)`` returns decisions, ``next_deadline()`` says when to call again."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from thunderagent_core.scheduling import events as ev
from thunderagent_core.scheduling.admission import Admission
from thunderagent_core.scheduling.backend import Backend
from thunderagent_core.scheduling.checks import check_state
from thunderagent_core.scheduling.decisions import Decision, Detach, Reason
from thunderagent_core.scheduling.environment_events import EnvironmentEvents, want
from thunderagent_core.scheduling.requests import RequestEvents
from thunderagent_core.scheduling.state import RETRY_SOON_S, State

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from thunderagent_core.scheduling.policies.base import Policy
    from thunderagent_core.scheduling.program import Program
    from thunderagent_core.scheduling.settings import SchedulerSettings


class Scheduler:
    """Programs over backends under one policy. Only ``handle`` changes anything, and it does so in one go.

    ``now`` is in seconds on any clock that does not go back; a smaller value than before counts as the same time.
    """

    def __init__(self, policy: Policy, settings: SchedulerSettings) -> None:
        self.settings = settings
        self.policy = policy
        self._state = state = State(policy, settings)
        self._admission = Admission(state)
        self._timers = (state.waits.patience, state.waits.bounds, state.leases, state.holds, state.reliefs)
        self._now = -math.inf
        self._ticked_at = -math.inf
        self._environments = environments = EnvironmentEvents(state)
        requests = RequestEvents(state)
        self._handlers: dict[type[Any], Callable[[Any, float], None]] = {
            ev.RequestArrived: requests.arrived,
            ev.TokensGenerated: requests.grew,
            ev.RequestEnded: requests.ended,
            ev.ForwardFailed: requests.forward_failed,
            ev.ProgramRegistered: self._registered,
            ev.ProgramFound: environments.found,
            ev.EnvironmentsWanted: environments.wanted,
            ev.EnvironmentUsed: environments.used,
            ev.EnvironmentReady: environments.ready,
            ev.EnvironmentFailed: environments.failed,
            ev.ProgramReleased: self._released,
            ev.ToolStarted: self._tool_started,
            ev.ToolEnded: self._tool_ended,
            ev.ProgramIdled: self._idled,
            ev.ProgramInterrupted: self._interrupted,
            ev.ProgramResumed: self._resumed,
            ev.BackendAdded: self._backend_added,
            ev.BackendSampled: self._backend_sampled,
            ev.BackendLost: self._backend_lost,
            ev.BackendDrained: self._backend_drained,
            ev.Tick: self._ticked,
        }

    @property
    def programs(self) -> Mapping[str, Program]:
        """Programs that have not ended, by id, for reading."""
        return self._state.programs

    @property
    def backends(self) -> Mapping[str, Backend]:
        """Backends by id, for reading."""
        return self._state.backends

    @property
    def waiting(self) -> int:
        """Programs in the waiting queue."""
        return len(self._state.queue)

    @property
    def open_requests(self) -> int:
        """Requests that are held or in flight."""
        return len(self._state.requests)

    def handle(self, event: ev.Event, now: float) -> list[Decision]:
        """Take in one fact and return what to do, in order."""
        self._now = now = max(now, self._now)
        self._handlers[type(event)](event, now)
        self._expire(now)
        if self._state.draining:
            self._detach_drained(now)
        self._admission.run(now)
        self._environments.order_next(now)
        decisions, self._state.out = self._state.out, []
        return decisions

    def next_deadline(self) -> float | None:
        """Return when ``handle(Tick(), now)`` is due next if no event comes before; None where nothing can happen."""
        state = self._state
        if not state.programs and not state.requests:
            return None
        due = self._ticked_at + self.settings.tick_s if self._ticked_at > -math.inf else self._now
        for timers in self._timers:
            first = timers.first()
            if first is not None and first[0] < due:
                due = first[0]
        return min(due, state.queue.wake_at())

    def check(self) -> None:
        """Compare every derived structure with a count from scratch. Raises AssertionError; for tests."""
        check_state(self._state, self._now)

    def _expire(self, now: float) -> None:
        """Act on every timer that is due."""
        state = self._state
        while (request_id := state.waits.patience.pop_due(now)) is not None:
            request = state.requests[request_id]
            state.refuse(request, Reason.PATIENCE, RETRY_SOON_S, now)
            if request.program is not None:
                state.waits.break_off(request.program, now)
                state.recount(request.program, now)
        while (program_id := state.waits.bounds.pop_due(now)) is not None:
            self._wait_is_long(state.programs[program_id], now)
        while (program_id := state.leases.pop_due(now)) is not None:
            self._lease_may_end(state.programs[program_id], now)
        while (program_id := state.holds.pop_due(now)) is not None:
            state.pause(state.programs[program_id], Reason.TTL, now)
        while (backend_id := state.reliefs.pop_due(now)) is not None:
            if (backend := state.backends.get(backend_id)) is not None:
                state.touched[backend_id] = backend

    def _wait_is_long(self, program: Program, now: float) -> None:
        since = now if program.waiting_since is None else program.waiting_since
        bound = since + self.settings.max_wait_s
        if now >= bound:
            self._admission.force(program, now)
        else:
            self._state.waits.bounds.put(program.id, bound)
            self._state.recount(program, now)

    def _lease_may_end(self, program: Program, now: float) -> None:
        lease = self.settings.interrupt_lease_s if program.interrupted else self.settings.idle_lease_s
        ends = program.active_at + lease
        if program.requests or program.id in self._state.family:
            self._state.leases.put(program.id, now + lease)  # it works, or waits for those that it started
        elif now >= ends:
            self._state.terminate(program, Reason.LEASE, now)
        else:
            self._state.leases.put(program.id, ends)

    # Programs

    def _registered(self, event: ev.ProgramRegistered, now: float) -> None:
        program = self._state.create(event.program_id, now)
        self._state.family.adopt(program, event.parent_id)
        program.group, program.priority, program.registered = event.group, event.priority, True
        program.active_at = now
        if event.environments:
            want(self._state, program, now)
        self._state.recount(program, now)

    def _released(self, event: ev.ProgramReleased, now: float) -> None:
        program = self._state.programs.get(event.program_id)
        if program is not None:
            self._state.terminate(program, event.reason, now)

    def _known(self, program_id: str, now: float) -> Program | None:
        program = self._state.programs.get(program_id)
        if program is not None:
            program.active_at = now
        return program

    def _tool_started(self, event: ev.ToolStarted, now: float) -> None:
        if (program := self._known(event.program_id, now)) is not None:
            program.tool = event.tool
            self._state.resume(program, now)

    def _tool_ended(self, event: ev.ToolEnded, now: float) -> None:
        if (program := self._known(event.program_id, now)) is not None and program.tool == event.tool:
            program.tool = None

    def _idled(self, event: ev.ProgramIdled, now: float) -> None:
        if (program := self._known(event.program_id, now)) is not None:
            self._state.resume(program, now)
            self._let_go(program, Reason.IDLE, now)

    def _interrupted(self, event: ev.ProgramInterrupted, now: float) -> None:
        if (program := self._known(event.program_id, now)) is None:
            return
        program.interrupted = True
        self._state.leases.put(program.id, now + self.settings.interrupt_lease_s)
        self._let_go(program, Reason.INTERRUPTED, now)

    def _let_go(self, program: Program, reason: Reason, now: float) -> None:
        """Pause a program that asks for it; what of it is still open may end first, and a new request takes it back."""
        if program.requests:
            program.wish = reason
        else:
            self._state.pause(program, reason, now)

    def _resumed(self, event: ev.ProgramResumed, now: float) -> None:
        if (program := self._known(event.program_id, now)) is not None:
            self._state.resume(program, now)

    # Backends

    def _backend_added(self, event: ev.BackendAdded, now: float) -> None:
        if event.backend_id not in self._state.backends:
            decay, reserve = self.policy.decay, self.settings.growth_reserve_tokens
            self._state.fleet.add(Backend(event.backend_id, decay, reserve, now))

    def _backend_sampled(self, event: ev.BackendSampled, now: float) -> None:
        backend = self._state.backends.get(event.backend_id)
        if backend is None:
            return
        models = frozenset(event.models)
        known = (backend.healthy, backend.capacity_tokens, backend.models)
        if known == (True, event.capacity_tokens, models):
            return
        backend.healthy, backend.capacity_tokens, backend.models = True, event.capacity_tokens, models
        self._state.fleet.changed()
        self._state.touched[backend.id] = backend
        self._reconsider(now)

    def _reconsider(self, now: float) -> None:
        """After a change of the fleet, look again at everybody who could go nowhere, and at who is too large."""
        state = self._state
        for program in list(state.stranded.values()):
            state.forward_held(program, now)
        for program_id in list(state.queue.ids()):
            state.recount(state.programs[program_id], now)
        state.queue.unblock()

    def _backend_lost(self, event: ev.BackendLost, now: float) -> None:
        backend = self._state.backends.get(event.backend_id)
        if backend is not None and backend.healthy:
            backend.healthy = False
            backend.generation += 1
            self._vacate(backend, Reason.BACKEND_LOST, now)

    def _backend_drained(self, event: ev.BackendDrained, now: float) -> None:
        backend = self._state.backends.get(event.backend_id)
        if backend is not None and not backend.draining:
            backend.draining = True
            self._state.draining.add(backend.id)
            self._vacate(backend, Reason.BACKEND_DRAINING, now)

    def _vacate(self, backend: Backend, reason: Reason, now: float) -> None:
        """Unbind all programs of a backend that closed; those with something in flight follow when it ends."""
        self._state.fleet.changed()
        for program in list(backend.programs.values()):
            self._state.pause(program, reason, now)
        self._state.touched[backend.id] = backend
        self._reconsider(now)

    def _ticked(self, event: ev.Tick, now: float) -> None:  # noqa: ARG002 - as above
        """Look at everything again: the backstop for what no event announced."""
        if now < self._ticked_at + self.settings.tick_s:
            return
        self._ticked_at = now
        self._state.touched |= self._state.backends
        self._state.queue.unblock()

    def _detach_drained(self, now: float) -> None:
        state = self._state
        for backend_id in sorted(state.draining):
            backend = state.backends[backend_id]
            if not backend.in_flight and not backend.programs:
                state.draining.remove(backend_id)
                state.fleet.remove(backend_id)
                self._reconsider(now)  # a model that nobody serves any more may go anywhere, to be told so
                state.out.append(Detach(backend_id))
