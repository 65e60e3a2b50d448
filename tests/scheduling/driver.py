"""A stand-in for the server around one scheduler: it carries out decisions and fires the timer.

It keeps its own books of every request and every backend, so an order that makes no sense fails at once: a request
forwarded twice, forwarded after its end, refused in flight, or sent to an engine that is closed.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from thunderagent_core.scheduling import events as ev
from thunderagent_core.scheduling.decisions import Decision, Detach, Forward, Pause, Reclaim, Refuse, Restore
from thunderagent_core.scheduling.events import Outcome
from thunderagent_core.scheduling.policies import make_policy
from thunderagent_core.scheduling.scheduler import Scheduler
from thunderagent_core.scheduling.settings import SchedulerSettings
from thunderagent_core.scheduling.trace import header_line, replay, step_line

if TYPE_CHECKING:
    from collections.abc import Callable

    from thunderagent_core.scheduling.program import Program

CHARS_PER_TOKEN = 4
"""The estimator's ratio before it has measured anything, so tests can speak in tokens."""


class Driver:
    """Feeds events to a scheduler at ``now`` and remembers what it was told to do."""

    def __init__(self, policy: str = "paper", **settings: Any) -> None:
        # Stories count exact tokens, so nothing is reserved unless they say so.
        self.settings = SchedulerSettings(**{"growth_reserve_tokens": 0, **settings})
        self.scheduler = Scheduler(make_policy(policy, self.settings), self.settings)
        self.now = 0.0
        self.held: dict[str, str | None] = {}
        """Program by request, of the requests that wait for an order."""
        self.in_flight: dict[str, tuple[str | None, str]] = {}
        """Program and backend by request, of the requests that an engine works on."""
        self._held_since: dict[str, float] = {}
        self._held_s: dict[str, float] = {}
        self.ends: dict[str, str] = {}
        """How each request that is over came to its end."""
        self.open_backends: set[str] = set()
        self.trace = [header_line(policy, self.settings)]
        self._numbers = 0

    # Events

    def on(self, event: ev.Event) -> list[Decision]:
        """Hand over one event and carry out what comes back."""
        self._note(event)
        decisions = self.scheduler.handle(event, self.now)
        self.trace.append(step_line(self.now, event, decisions))
        for decision in decisions:
            self._perform(decision)
        return decisions

    def backend(self, backend_id: str, capacity_tokens: int, *models: str) -> list[Decision]:
        """Add an engine and let it answer its first poll."""
        return self.on(ev.BackendAdded(backend_id)) + self.sample(backend_id, capacity_tokens, *models)

    def sample(self, backend_id: str, capacity_tokens: int, *models: str) -> list[Decision]:
        """Let an engine answer a poll."""
        return self.on(ev.BackendSampled(backend_id, capacity_tokens, models))

    def arrive(self, request: str, program: str | None, tokens: int = 100, **fields: Any) -> list[Decision]:
        """Let a request arrive whose text is about ``tokens`` long."""
        return self.on(ev.RequestArrived(request, program, prompt_chars=tokens * CHARS_PER_TOKEN, **fields))

    def end(self, request: str, *usage: int, outcome: Outcome = Outcome.COMPLETED) -> list[Decision]:
        """End a request; ``usage`` is prompt, completion and cached tokens, as far as they are known."""
        return self.on(ev.RequestEnded(request, outcome, *usage))

    def turn(self, program: str, tokens: int) -> list[Decision]:
        """Let a program take a whole turn at once that leaves ``tokens`` of context."""
        self._numbers += 1
        request = f"turn-{self._numbers}"
        return self.arrive(request, program, tokens) + self.end(request, tokens, 0)

    def release(self, program: str) -> list[Decision]:
        """End a program."""
        return self.on(ev.ProgramReleased(program))

    # Time

    def wait(self, seconds: float, after_each: Callable[[], None] = lambda: None) -> list[tuple[float, Decision]]:
        """Let time pass, firing the timer whenever it is due; return decisions with their times."""
        until = self.now + seconds
        told: list[tuple[float, Decision]] = []
        while (due := self.scheduler.next_deadline()) is not None and due <= until:
            self.now = max(self.now, due)
            told += [(self.now, decision) for decision in self.on(ev.Tick())]
            after_each()
            again = self.scheduler.next_deadline()
            assert again is None or again > self.now, "the timer stands still"
        self.now = until
        return told

    # Looking

    def program(self, program_id: str) -> Program:
        """Return a live program."""
        return self.scheduler.programs[program_id]

    def demand(self, backend_id: str) -> float:
        """Return the demand that a backend is under now."""
        return self.scheduler.backends[backend_id].demand(self.now)

    def held_for(self, request: str) -> float:
        """Return for how many seconds a request has been held, all times together, up to the last event."""
        return self._held_s.get(request, 0.0) + self.scheduler._now - self._held_since[request]

    def marked(self, backend_id: str) -> list[str]:
        """Return who is to be paused there, in the order in which they were marked."""
        return list(self.scheduler.backends[backend_id].marked)

    def finish(self) -> None:
        """Check the invariants, and that the trace of this test replays to the same decisions."""
        self.scheduler.check()
        self.compare_books()
        assert [mismatch for mismatch in replay(self.trace) if mismatch] == []

    def compare_books(self) -> None:
        """The scheduler and the driver agree on what is held and what is in flight, and where."""
        requests = self.scheduler._state.requests.values()
        assert {r.id for r in requests if r.backend is None} == set(self.held)
        at = {r.id: r.backend.id for r in requests if r.backend is not None}
        assert at == {request: backend for request, (_, backend) in self.in_flight.items()}

    # Books

    def _clock(self) -> float:
        return max(self.now, self.scheduler._now)

    def _note(self, event: ev.Event) -> None:
        match event:
            case ev.RequestArrived():
                self.held[event.request_id] = event.program_id
                self._held_since[event.request_id] = self._clock()
            case ev.RequestEnded() if event.request_id not in self.ends:
                self.held.pop(event.request_id, None)
                self.in_flight.pop(event.request_id, None)
                self.ends[event.request_id] = event.outcome
            case ev.ForwardFailed() if event.request_id in self.in_flight:
                self.held[event.request_id] = self.in_flight.pop(event.request_id)[0]
                self._held_since[event.request_id] = self._clock()
            case ev.BackendSampled() if event.backend_id in self.scheduler.backends:
                if not self.scheduler.backends[event.backend_id].draining:
                    self.open_backends.add(event.backend_id)
            case ev.BackendLost() | ev.BackendDrained():
                self.open_backends.discard(event.backend_id)
            case _:
                pass

    def _perform(self, decision: Decision) -> None:
        match decision:
            case Forward(program_id, request_id, backend_id):
                assert request_id in self.held, f"{decision} for a request that does not wait"
                assert backend_id in self.open_backends, f"{decision} to an engine that is closed"
                self._held_s[request_id] = self.held_for(request_id)
                del self.held[request_id]
                self.in_flight[request_id] = (program_id, backend_id)
            case Refuse(_, request_id):
                assert request_id in self.held, f"{decision} for a request that does not wait"
                del self.held[request_id]
                self.ends[request_id] = decision.reason
            case Restore(_, backend_id):
                assert backend_id in self.open_backends, f"{decision} on an engine that is closed"
            case Reclaim(program_id):
                assert program_id not in self.held.values(), f"{decision} while it has requests waiting"
            case Detach(backend_id):
                assert not [r for r, (_, at) in self.in_flight.items() if at == backend_id], decision
            case Pause():
                pass


def plain(lines: list[str]) -> list[dict[str, Any]]:
    """Read a trace's lines."""
    return [json.loads(line) for line in lines]
