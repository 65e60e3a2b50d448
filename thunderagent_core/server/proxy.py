"""One request: admit, forward, report the end. Exactly one end, from ``finally``, whatever happens."""

from __future__ import annotations

import asyncio
import math
from typing import TYPE_CHECKING

from thunderagent_core.engines.usage import Usage, read_usage
from thunderagent_core.scheduling.events import Outcome
from thunderagent_core.server.attempt import AbandonedError, Attempt
from thunderagent_core.server.errors import ApiError, refusal, stopping
from thunderagent_core.server.headers import answer_headers
from thunderagent_core.server.relay import CLIENT_ERRORS, StreamRelay, relay_unread
from thunderagent_core.transport.messages import ConnectFailedError, ConnectionLostError, UpstreamSilentError

if TYPE_CHECKING:
    from thunderagent_core.server.environment_door import EnvironmentDoor
    from thunderagent_core.server.fleet import Engine, Fleet
    from thunderagent_core.server.headers import EngineHeaders
    from thunderagent_core.server.runtime import Runtime
    from thunderagent_core.server.tickets import Ticket
    from thunderagent_core.server.wire import Call
    from thunderagent_core.transport.messages import Headers, Request, Responder, Response

_MAX_ATTEMPTS = 3
"""Times that one request is sent to engines which give no answer, before the client is told; and the number of
refused connections beyond one for each engine."""

_RETRY_STATUSES = frozenset({500, 502, 503, 504})
"""Engine errors for which another engine is worth a try."""

_SUCCESS = range(200, 400)

_REJECTIONS = frozenset({400, 404, 413, 422})
"""Engine errors that find fault with the request itself; others, such as 429, may pass."""

_PATIENCE_HEADERS = frozenset({b"x-stainless-read-timeout", b"x-stainless-timeout"})
"""What OpenAI's and Anthropic's SDKs send: seconds, the first from Python, the second from JavaScript."""

_MARGIN_S = 5.0
"""Kept of a client's patience for the way there and back and the engine's time to its first byte."""


class Exchange:
    """What is known of one request while it is served."""

    __slots__ = ("attempts", "call", "outcome", "refusals", "rejected", "respond", "ticket", "usage")

    def __init__(self, call: Call, ticket: Ticket, respond: Responder) -> None:
        self.call = call
        self.ticket = ticket
        self.respond = respond
        self.outcome = Outcome.DISCONNECTED
        """Cancellation is the only way out that sets nothing: the client went away, or the server cannot wait."""
        self.rejected = False
        self.attempts = 0
        self.refusals = 0
        self.usage: Usage | None = None

    def fail(self, error: BaseException | None = None) -> None:
        """Note that the engine failed: nothing is charged."""
        self.outcome = Outcome.TIMED_OUT if isinstance(error, UpstreamSilentError) else Outcome.UPSTREAM_ERROR
        self.usage = None


class Proxy:
    """Forwards requests to engines under the scheduler's orders.

    Args:
        runtime: decides where and when.
        fleet: the engines by backend id.
        headers: makes the headers that engines are sent.
        door: leads to tool environments.
    """

    def __init__(self, runtime: Runtime, fleet: Fleet, headers: EngineHeaders, door: EnvironmentDoor) -> None:
        self._runtime = runtime
        self._fleet = fleet
        self._headers = headers
        self._door = door

    async def serve(self, request: Request, respond: Responder, call: Call) -> None:
        """Answer one request. Raises ApiError where nothing has been sent yet."""
        if call.program_id is None or not call.environments:
            await self._serve(request, respond, call)
            return
        try:
            new = await self._door.declare(call.program_id, call.environments)
            await self._serve(request, respond, call, environments=new)
        finally:
            self._door.withdraw(call.program_id)

    async def _serve(self, request: Request, respond: Responder, call: Call, *, environments: bool = False) -> None:
        ticket = self._runtime.open(call, _patience_s(request.headers), environments=environments)
        exchange = Exchange(call, ticket, respond)
        try:
            await self._attempt_until_answered(request, exchange)
        except asyncio.CancelledError:
            if self._runtime.stopping.is_set() and not respond.started:
                error = stopping()
                respond.send(error.status, error.headers(), error.body())
            raise
        except BaseException as error:
            exchange.fail(error.__cause__)
            raise
        finally:
            refused = exchange.ticket.refused is not None
            outcome = Outcome.REFUSED if refused else exchange.outcome
            self._runtime.close(exchange.ticket, outcome, exchange.usage, rejected=exchange.rejected)

    async def _attempt_until_answered(self, request: Request, exchange: Exchange) -> None:
        ticket, call = exchange.ticket, exchange.call
        path = f"{request.path}?{request.query}" if request.query else request.path
        outgoing = request.method, path, self._headers.request(request.headers, call.program_id), call.body
        while exchange.attempts < _MAX_ATTEMPTS and exchange.refusals < _MAX_ATTEMPTS + len(self._fleet.engines):
            if not ticket.decided:
                await ticket.wait()
            if ticket.refused is not None:
                raise refusal(ticket.refused, None if call.dialect is None else call.dialect.field)
            engine = self._fleet.engines[ticket.backend_id or ""]
            exchange.attempts += 1
            if await self._attempt(engine, outgoing, exchange):
                return
            self._runtime.failed(ticket, engine.id)
        raise ApiError(503, "The engines broke off every attempt.", code="upstream_unavailable", retry_after_s=5.0)

    async def _attempt(self, engine: Engine, outgoing: tuple[str, str, Headers, bytes], exchange: Exchange) -> bool:
        """Send a request to one engine and pass its answer on; False where it is to be sent again."""
        try:
            with Attempt(engine.attempts, lambda: self._replaceable(exchange)):
                response = await engine.pool.request(*outgoing, repeatable=exchange.call.repeatable)
                try:
                    answered = await self._answer(response, exchange)
                finally:
                    response.close()
        except AbandonedError:
            return False
        except (ConnectFailedError, ConnectionLostError) as error:
            if not exchange.respond.started:
                self._engine_failed(engine, error, exchange)
                return False
            self._fleet.suspect(engine)
            return True  # that the answer broke off is all that could still be said
        if answered and exchange.outcome is Outcome.UPSTREAM_ERROR and response.status not in CLIENT_ERRORS:
            self._fleet.suspect(engine)
        return answered

    def _replaceable(self, exchange: Exchange) -> bool:
        """Whether another engine can still answer in place of the present one."""
        call = exchange.call
        may_repeat = call.repeatable and exchange.attempts < _MAX_ATTEMPTS and not exchange.respond.started
        return may_repeat and self._runtime.has_alternative(exchange.ticket.backend_id or "", call.model)

    def _engine_failed(
        self, engine: Engine, error: ConnectFailedError | ConnectionLostError, exchange: Exchange
    ) -> None:
        """Tell the fleet; raise where the request may have had an effect and so must not be sent again."""
        if isinstance(error, ConnectFailedError):
            exchange.attempts -= 1
            exchange.refusals += 1
            self._fleet.lost(engine, str(error))
            return
        self._fleet.suspect(engine)
        if isinstance(error, UpstreamSilentError):
            message = f"The engine did not answer: {error}."
            raise ApiError(504, message, code="upstream_timeout", permanent=True) from error
        if not exchange.call.repeatable:
            message = f"The engine broke off: {error}. The request may have had an effect, so it was not repeated."
            raise ApiError(502, message, code="upstream_broke_off", permanent=True) from error

    async def _answer(self, response: Response, exchange: Exchange) -> bool:
        """Pass an engine's answer on; False where another engine should be asked instead."""
        call, respond = exchange.call, exchange.respond
        if response.status in _RETRY_STATUSES and self._replaceable(exchange):
            return False
        headers = answer_headers(response.status, response.headers)
        ok = response.status in _SUCCESS
        exchange.rejected = response.status in _REJECTIONS
        if call.stream and ok and not _is_json(headers):
            relay = StreamRelay(exchange, self._runtime)
            return await relay.run(response, headers, lambda: self._replaceable(exchange))
        if call.dialect is None:
            await relay_unread(response, headers, exchange)
        else:
            body = await response.read()
            if ok:
                exchange.usage = read_usage(body)
            respond.send(response.status, headers, body)
        exchange.outcome = Outcome.COMPLETED if ok else Outcome.UPSTREAM_ERROR
        return True


def _patience_s(headers: Headers) -> float | None:
    """Return for how many seconds a request may be held, from the client's own time-outs where it says one."""
    shortest = math.inf
    for name, value in headers:
        if name in _PATIENCE_HEADERS:
            try:
                timeout_s = float(value)
            except ValueError:
                continue
            if timeout_s > 0:
                shortest = min(shortest, timeout_s)
    return None if shortest == math.inf else max(shortest / 2, shortest - _MARGIN_S)


def _is_json(headers: Headers) -> bool:
    """Whether the engine answered a request for a stream with one document: it knows no streams, or made none."""
    return any(name == b"content-type" and value.startswith(b"application/json") for name, value in headers)
