"""What happens to requests: they arrive, grow, fail to be delivered, and end exactly once."""

from __future__ import annotations

from typing import TYPE_CHECKING

from thunderagent_core.scheduling.backend import most_room
from thunderagent_core.scheduling.decisions import Reason, Refuse
from thunderagent_core.scheduling.environment_events import want
from thunderagent_core.scheduling.events import (
    ForwardFailed,
    Outcome,
    RequestArrived,
    RequestEnded,
    TokensGenerated,
)
from thunderagent_core.scheduling.policies.baselines import fewest_requests
from thunderagent_core.scheduling.program import Program, Request
from thunderagent_core.scheduling.state import RETRY_NO_BACKEND_S, State

if TYPE_CHECKING:
    from collections.abc import Sequence

    from thunderagent_core.scheduling.backend import Backend
    from thunderagent_core.scheduling.fleet import Choice

_OWN_TOKENS = 128
"""A first prompt that was cached but for fewer tokens is taken for a re-run of itself, not for a shared prefix: what
is left of a re-run is less than one of the engine's blocks."""


class RequestEvents:
    """The request half of the scheduler's event handlers."""

    def __init__(self, state: State) -> None:
        self._state = state

    def arrived(self, event: RequestArrived, now: float) -> None:
        """Forward at once where the program has its place, else hold; refuse what can never be served."""
        state = self._state
        program = None if event.program_id is None else state.programs.get(event.program_id)
        choice = state.fleet.choice(event.model)
        tokens = state.tokens.estimate(event, program)
        refusal = self._refusal(event, choice, tokens)
        if refusal is not None:
            state.out.append(refusal)
            return
        if event.program_id is not None:
            program = state.create(event.program_id, now)
            if event.environments:
                want(state, program, now)
        request = Request(event.request_id, program, event.model, tokens, event.prompt_chars, now)
        state.requests[request.id] = request
        if event.patience_s is not None:
            request.give_up_at = now + event.patience_s
        if program is None:
            self._send_untracked(request, choice.backends, now)
        else:
            self._enter(program, request, choice.backends, now)

    def _refusal(self, event: RequestArrived, choice: Choice, tokens: int) -> Refuse | None:
        if not choice.backends:
            return Refuse(event.program_id, event.request_id, Reason.NO_BACKEND, RETRY_NO_BACKEND_S)
        if tokens <= choice.largest_tokens or event.program_id is None:
            return None  # what is not scheduled is for the engine to judge
        least = self._state.tokens.at_least(event)
        if least <= choice.largest_tokens or self._state.fleet.fits_somewhere(event.model, least):
            return None  # a large engine that is down may come back: then the answer would not be final
        return Refuse(event.program_id, event.request_id, Reason.TOO_LARGE)

    def _enter(self, program: Program, request: Request, backends: tuple[Backend, ...], now: float) -> None:
        """Add a request to its program and send it on, or leave it in the queue."""
        state = self._state
        if not program.requests:
            program.phase_since = now
            state.holds.drop(program.id)
        program.requests[request.id] = request
        program.active_at = now
        program.tool = program.wish = None
        if program.interrupted:
            state.resume(program, now)
        if state.goes_on(program):
            if state.policy.request_level:
                state.send(request, state.policy.choose(program, backends, now) or backends[0], now)
            state.forward_held(program, now)
        else:
            self._wait(program, request, now)

    def _wait(self, program: Program, request: Request, now: float) -> None:
        self._state.waits.begin(program, request, now)
        self._state.recount(program, now)

    def grew(self, event: TokensGenerated, now: float) -> None:
        """Count generated tokens as they stream, long before usage is known."""
        request = self._state.requests.get(event.request_id)
        if request is None:
            return
        request.tokens += event.tokens
        request.generated += event.tokens
        if request.program is not None:
            self._state.recount(request.program, now)
        else:
            self._state.count_untracked(request)

    def forward_failed(self, event: ForwardFailed, now: float) -> None:
        """Put a request that reached nobody back to where it waits."""
        state = self._state
        request = state.requests.get(event.request_id)
        if request is None or request.backend is None or request.backend.id != event.backend_id:
            return
        state.detach(request)
        request.backend = None
        state.requests[request.id] = request
        program = request.program
        if program is None:
            backends = state.eligible(request.model)
            others = [backend for backend in backends if backend.id != event.backend_id]
            self._send_untracked(request, others or backends, now)
            return
        program.requests[request.id] = request
        if program.marked and not program.in_flight:
            state.pause(program, Reason(program.marked), now)
        if state.goes_on(program):
            self._send_elsewhere(program, request, event.backend_id, now)
        else:
            self._wait(program, request, now)

    def _send_elsewhere(self, program: Program, request: Request, failed_id: str, now: float) -> None:
        """Send one request past an engine that did not take it; the program keeps its place there."""
        others = [backend for backend in self._state.eligible(request.model) if backend.id != failed_id]
        target = most_room(others, now)
        if target is not None:
            self._state.send(request, target, now)
        self._state.forward_held(program, now)

    def ended(self, event: RequestEnded, now: float) -> None:
        """Settle what is known of the context; with nothing in flight the program is ACTING. Unknown ids are over."""
        state = self._state
        request = state.requests.get(event.request_id)
        if request is None:
            return
        was_held = request.backend is None
        state.detach(request)
        program = request.program
        if event.prompt_tokens:
            state.tokens.learn(program, request.model, request.chars, event.prompt_tokens)
        if program is None:
            return
        program.active_at = now
        self._settle(program, request, event)
        state.end_turn(program, now)
        if was_held:
            state.waits.break_off(program, now)
        self._after_end(program, now)

    def _after_end(self, program: Program, now: float) -> None:
        if program.marked and not program.in_flight:
            self._state.pause(program, Reason(program.marked), now)
        elif program.wish and not program.requests and program.backend is not None:
            self._state.pause(program, Reason(program.wish), now)
        else:
            self._state.recount(program, now)

    def _settle(self, program: Program, request: Request, event: RequestEnded) -> None:
        """Take over exact usage; an engine's failure charges nothing."""
        if event.outcome is Outcome.COMPLETED:
            self._count_turn(program, event)
            if request.backend is not None and request.backend is program.home:
                program.home_generation = request.backend.generation  # it answered, so what it cached is there
        if event.prompt_tokens is not None:
            context = event.prompt_tokens + (event.completion_tokens or request.generated)
        elif event.outcome in {Outcome.COMPLETED, Outcome.DISCONNECTED} and request.backend is not None:
            context = request.tokens
        else:
            context = 0
        program.peak_tokens = max(program.peak_tokens, context)

    def _count_turn(self, program: Program, event: RequestEnded) -> None:
        first = program.steps == 0
        program.steps += 1
        program.prompt_tokens += event.prompt_tokens or 0
        program.completion_tokens += event.completion_tokens or 0
        cached = event.cached_tokens or 0
        program.cached_tokens += cached
        if first and cached <= (event.prompt_tokens or 0) - _OWN_TOKENS and self._state.settings.discount_shared_prefix:
            program.shared_tokens = cached

    def _send_untracked(self, request: Request, backends: Sequence[Backend], now: float) -> None:
        target = fewest_requests(backends)
        if target is None:
            self._state.refuse(request, Reason.NO_BACKEND, RETRY_NO_BACKEND_S, now)
        else:
            self._state.send(request, target, now)
