"""The sole owner of the Scheduler: feeds it events, carries out its decisions, arms one timer."""

from __future__ import annotations

import asyncio
import itertools
from collections import Counter
from typing import TYPE_CHECKING

from thunderagent_core.scheduling.decisions import Forward, Reason, Reclaim, Refuse
from thunderagent_core.scheduling.events import (
    Event,
    ForwardFailed,
    Outcome,
    ProgramReleased,
    RequestArrived,
    RequestEnded,
    Tick,
)
from thunderagent_core.scheduling.trace import header_line, step_line
from thunderagent_core.server.tickets import Ticket

if TYPE_CHECKING:
    from collections.abc import Callable

    from thunderagent_core.engines.usage import Usage
    from thunderagent_core.scheduling.decisions import Decision
    from thunderagent_core.scheduling.program import Program
    from thunderagent_core.scheduling.scheduler import Scheduler
    from thunderagent_core.server.trace_file import TraceFile
    from thunderagent_core.server.wire import Call

_RETRY_ELSEWHERE_S = 5.0
"""Retry-After while the server stops, in seconds: another may be up by then."""


class Runtime:
    """Everything that touches the scheduler goes through ``post``; nothing here awaits while deciding.

    Args:
        scheduler: the core; nobody else may call it.
        ended_programs: how many ended programs are remembered, at most.
        trace: where to record events and decisions, if anywhere.
    """

    def __init__(
        self,
        scheduler: Scheduler,
        *,
        ended_programs: int,
        trace: TraceFile | None = None,
    ) -> None:
        self.scheduler = scheduler
        self.stopping = asyncio.Event()
        self.ended: dict[str, None] = {}
        """Ids of the programs that ended last, oldest first."""
        self._ended_programs = ended_programs
        self.decisions: Counter[str] = Counter()
        self.outcomes: Counter[str] = Counter()
        self.listeners: set[Callable[[float, Decision], None]] = set()
        self._tickets: dict[str, Ticket] = {}
        self._numbers = itertools.count(1)
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = 0.0
        self._trace = trace
        if trace is not None:
            trace.write(header_line(scheduler.policy.name, scheduler.settings))

    @property
    def now(self) -> float:
        """The scheduler's clock in seconds."""
        return self._loop.time()

    def post(self, event: Event) -> list[Decision]:
        """Hand one fact to the scheduler and carry out what it decides."""
        now = self._loop.time()
        decisions = self.scheduler.handle(event, now)
        if self._trace is not None:
            self._trace.write(step_line(now, event, decisions))
        for decision in decisions:
            self._perform(decision, now)
        self._arm(now)
        return decisions

    def open(self, call: Call, patience_s: float | None = None, *, environments: bool = False) -> Ticket:
        """Announce a request; the ticket is decided at once where there is room. Close it exactly once.

        ``environments``: it declared new tool environments.
        """
        ticket = Ticket(f"r{next(self._numbers)}", call.program_id)
        self._tickets[ticket.request_id] = ticket
        prompt = call.prompt_chars, call.prompt_tokens
        self.post(RequestArrived(ticket.request_id, call.program_id, call.model, *prompt, patience_s, environments))
        self._turn_away_if_stopping(ticket)
        return ticket

    def failed(self, ticket: Ticket, backend_id: str) -> None:
        """Report that ``backend_id`` did not take the request: it waits again, or goes elsewhere at once."""
        ticket.backend_id = None
        self.post(ForwardFailed(ticket.request_id, backend_id))
        self._turn_away_if_stopping(ticket)

    def close(self, ticket: Ticket, outcome: Outcome, usage: Usage | None = None, *, rejected: bool = False) -> None:
        """Report a request's one end; ``rejected``: the engine found fault with the request itself."""
        del self._tickets[ticket.request_id]
        self.outcomes[outcome] += 1
        if ticket.refused is not None:
            return  # the refusal was its end
        if usage is None:
            self.post(RequestEnded(ticket.request_id, outcome))
        else:
            counts = usage.prompt_tokens, usage.completion_tokens, usage.cached_tokens
            self.post(RequestEnded(ticket.request_id, outcome, *counts))
        if rejected and ticket.program_id is not None:
            self._forget_if_never_served(ticket.program_id)

    def _forget_if_never_served(self, program_id: str) -> None:
        """Bad input leaves nothing behind: a program that only a rejected request made is ended again."""
        program = self.program(program_id)
        if program is None or program.registered or program.requests or program.steps or program.settled_tokens:
            return
        self.post(ProgramReleased(program_id, "its only request was rejected by the engine"))

    def has_alternative(self, backend_id: str, model: str | None) -> bool:
        """Whether another open backend could take a request for ``model``."""
        others = (b for b in self.scheduler.backends.values() if b.id != backend_id)
        return any(backend.open and backend.serves(model) for backend in others)

    def program(self, program_id: str) -> Program | None:
        """Return a live program, or None."""
        return self.scheduler.programs.get(program_id)

    def begin_stop(self) -> None:
        """Send whoever is held, or would be from now on, away to try again: what is in flight may finish."""
        self.stopping.set()
        for ticket in list(self._tickets.values()):
            self._turn_away_if_stopping(ticket)

    def _turn_away_if_stopping(self, ticket: Ticket) -> None:
        """Withdraw a held request from the scheduler and refuse it, if the server stops."""
        if ticket.decided or not self.stopping.is_set():
            return
        decision = Refuse(ticket.program_id, ticket.request_id, Reason.STOPPING, _RETRY_ELSEWHERE_S)
        self._perform(decision, self.now)
        self.post(RequestEnded(ticket.request_id, Outcome.REFUSED))

    def stop(self) -> None:
        """Disarm the timer and write the rest of the trace."""
        if self._timer is not None:
            self._timer.cancel()
        if self._trace is not None:
            self._trace.flush()

    def _perform(self, decision: Decision, now: float) -> None:
        kind = type(decision)
        self.decisions[kind.__name__] += 1
        if kind is Forward:
            self._tickets[decision.request_id].forward(decision.backend_id)  # type: ignore[union-attr]
        elif kind is Refuse:
            self._tickets[decision.request_id].refuse(decision)  # type: ignore[union-attr, arg-type]
        elif kind is Reclaim:
            self._remember(decision.program_id)  # type: ignore[union-attr, arg-type]
        for listener in self.listeners:
            listener(now, decision)

    def _remember(self, program_id: str) -> None:
        self.ended.pop(program_id, None)
        self.ended[program_id] = None
        if len(self.ended) > self._ended_programs:
            del self.ended[next(iter(self.ended))]

    def _arm(self, now: float) -> None:
        """Keep one timer that fires no later than the scheduler's next deadline; firing early does no harm."""
        deadline = self.scheduler.next_deadline()
        if self._timer is not None:
            if deadline is not None and self._timer_at <= deadline:
                return
            self._timer.cancel()
            self._timer = None
        if deadline is not None:
            self._timer_at = max(deadline, now)
            self._timer = self._loop.call_at(self._timer_at, self._tick)

    def _tick(self) -> None:
        self._timer = None
        self.post(Tick())
