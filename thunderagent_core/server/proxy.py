"""One request: admit, forward, report the end. Exactly one end, from ``finally``, whatever happens."""

from __future__ import annotations

import asyncio
import math
from typing import TYPE_CHECKING
from urllib.parse import quote

from thunderagent_core.engines.usage import Usage, read_usage
from thunderagent_core.scheduling.events import Outcome
from thunderagent_core.server.errors import ApiError, refusal
from thunderagent_core.server.relay import CLIENT_ERRORS, StreamRelay, relay_unread
from thunderagent_core.transport.headers import end_to_end
from thunderagent_core.transport.messages import ConnectFailedError, ConnectionLostError

if TYPE_CHECKING:
    from thunderagent_core.server.fleet import Engine, Fleet
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

_PATIENCE_HEADERS = frozenset({b"x-stainless-read-timeout", b"x-stainless-timeout"})
"""What OpenAI's and Anthropic's SDKs send: seconds, the first from Python, the second from JavaScript."""

_MARGIN_S = 5.0
"""Kept of a client's patience for the way there and back and the engine's time to its first byte."""


class Exchange:
    """What is known of one request while it is served."""

    __slots__ = ("attempts", "call", "outcome", "refusals", "rejected", "ticket", "usage")

    def __init__(self, call: Call, ticket: Ticket) -> None:
        self.call = call
        self.ticket = ticket
        self.outcome = Outcome.DISCONNECTED
        """Cancellation is the only way out that sets nothing: the client went away."""
        self.rejected = False
        self.attempts = 0
        self.refusals = 0
        self.usage: Usage | None = None

    def fail(self) -> None:
        """Note that the engine failed: nothing is charged."""
        self.outcome = Outcome.UPSTREAM_ERROR
        self.usage = None


class Proxy:
    """Forwards requests to engines under the scheduler's orders.

    Args:
        runtime: decides where and when.
        fleet: the engines by backend id.
        backend_api_key: replaces the client's Authorization towards the engines, where given.
    """

    def __init__(self, runtime: Runtime, fleet: Fleet, *, backend_api_key: str | None = None) -> None:
        self._runtime = runtime
        self._fleet = fleet
        self._authorization = None if backend_api_key is None else f"Bearer {backend_api_key}".encode()

    async def serve(self, request: Request, respond: Responder, call: Call) -> None:
        """Answer one request. Raises ApiError where nothing has been sent yet."""
        exchange = Exchange(call, self._runtime.open(call, _patience_s(request.headers)))
        try:
            await self._attempt_until_answered(request, respond, exchange)
        except asyncio.CancelledError:
            raise
        except BaseException:
            exchange.fail()
            raise
        finally:
            refused = exchange.ticket.refused is not None
            outcome = Outcome.REFUSED if refused else exchange.outcome
            self._runtime.close(exchange.ticket, outcome, exchange.usage, rejected=exchange.rejected)

    async def _attempt_until_answered(self, request: Request, respond: Responder, exchange: Exchange) -> None:
        ticket, call = exchange.ticket, exchange.call
        headers = self._request_headers(request, call)
        path = f"{request.path}?{request.query}" if request.query else request.path
        while exchange.attempts < _MAX_ATTEMPTS and exchange.refusals < _MAX_ATTEMPTS + len(self._fleet.engines):
            if not ticket.decided:
                await ticket.wait()
            if ticket.refused is not None:
                raise refusal(ticket.refused, None if call.dialect is None else call.dialect.field)
            engine = self._fleet.engines[ticket.backend_id or ""]
            exchange.attempts += 1
            try:
                response = await engine.pool.request(request.method, path, headers, call.body)
                try:
                    if await self._answer(response, respond, exchange):
                        if exchange.outcome is Outcome.UPSTREAM_ERROR and not exchange.rejected:
                            self._fleet.suspect(engine)
                        return
                finally:
                    response.close()
            except (ConnectFailedError, ConnectionLostError) as error:
                if respond.started:
                    self._fleet.suspect(engine)
                    return  # that the answer broke off is all that could still be said
                self._engine_failed(engine, error, exchange)
            self._runtime.failed(ticket, engine.id)
        raise ApiError(503, "The engines broke off every attempt.", code="upstream_unavailable", retry_after_s=5.0)

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
        if not exchange.call.repeatable:
            message = f"The engine broke off: {error}. The request may have had an effect, so it was not repeated."
            raise ApiError(502, message, code="upstream_broke_off", permanent=True) from error

    async def _answer(self, response: Response, respond: Responder, exchange: Exchange) -> bool:
        """Pass an engine's answer on; False where another engine should be asked instead."""
        call, ticket = exchange.call, exchange.ticket

        def replaceable() -> bool:
            may_repeat = call.repeatable and exchange.attempts < _MAX_ATTEMPTS
            return may_repeat and self._runtime.has_alternative(ticket.backend_id or "", call.model)

        if response.status in _RETRY_STATUSES and replaceable():
            return False
        headers = [field for field in end_to_end(response.headers) if field[0] != b"date"]
        ok = response.status in _SUCCESS
        exchange.rejected = response.status in CLIENT_ERRORS
        if call.stream and ok and not _is_json(headers):
            return await StreamRelay(exchange, self._runtime).run(response, respond, headers, replaceable)
        if call.dialect is None:
            await relay_unread(response, respond, headers, exchange)
        else:
            body = await response.read()
            if ok:
                exchange.usage = read_usage(body)
            respond.send(response.status, headers, body)
        exchange.outcome = Outcome.COMPLETED if ok else Outcome.UPSTREAM_ERROR
        return True

    def _request_headers(self, request: Request, call: Call) -> Headers:
        """Return what the engine is sent. Compressed answers could not be read, so none is asked for."""
        headers = [field for field in end_to_end(request.headers) if field[0] != b"accept-encoding"]
        if call.program_id is not None:
            headers = [field for field in headers if field[0] != b"x-session-id"]
            headers.append((b"x-session-id", session_id(call.program_id)))
        if self._authorization is not None:
            headers = [field for field in headers if field[0] not in {b"authorization", b"x-api-key"}]
            headers.append((b"authorization", self._authorization))
        return headers


def session_id(program_id: str) -> bytes:
    """Return the program id as a header value; what a header cannot hold is percent-encoded, and then ``%`` too."""
    if program_id.isascii() and "%" not in program_id and program_id.strip() == program_id:
        return program_id.encode()
    return quote(program_id, safe="/:@!$&'()*+,;=").encode()


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
