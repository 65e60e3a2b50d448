"""An engine's answer on its way to the client, piece by piece."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any

from thunderagent_core.engines.sse import StreamTap
from thunderagent_core.scheduling.events import Outcome, TokensGenerated
from thunderagent_core.server.stream_errors import broken_off, server_stopped
from thunderagent_core.transport.messages import ConnectionLostError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping

    from thunderagent_core.server.proxy import Exchange
    from thunderagent_core.server.runtime import Runtime
    from thunderagent_core.transport.messages import Headers, Responder, Response

_LOG = logging.getLogger(__name__)

CLIENT_ERRORS = range(400, 500)

_GROWTH_STEP_TOKENS = 32
"""Streamed tokens between two reports of growth to the scheduler."""


async def relay_unread(response: Response, headers: Headers, exchange: Exchange) -> None:
    """Pass on an answer without looking at it. Raises ConnectionLostError where the engine breaks off."""
    respond = exchange.respond
    respond.start(response.status, headers, length=_length(response.headers))
    try:
        async for piece in response:
            respond.write(piece)
            await respond.drain()
    except ConnectionLostError as error:
        exchange.fail(error)
        respond.abort()  # a short answer must not look like a whole one
        raise
    respond.finish()


class StreamRelay:
    """Passes on a stream of events, and reports what is seen of it to the scheduler."""

    def __init__(self, exchange: Exchange, runtime: Runtime) -> None:
        self._exchange = exchange
        self._runtime = runtime
        self._tap = StreamTap(hide_usage=exchange.call.hide_usage)
        self._reported = 0

    async def run(self, response: Response, headers: Headers, replaceable: Callable[[], bool]) -> bool:
        """Pass the stream on; False where it begins with an error and ``replaceable`` says to ask another engine.

        Raises ConnectionLostError where the engine breaks off. That it did so midway has been reported in the
        stream, which has ended; before the first event nothing has been sent, so another engine may still answer.
        """
        exchange, tap, respond = self._exchange, self._tap, self._exchange.respond
        pieces = aiter(response)
        begun = await self._first_events(pieces)
        if tap.error is not None and _is_server_error(tap.error) and replaceable():
            return False
        exchange.usage = tap.usage
        respond.start(response.status, headers)
        try:
            await self._pass_on(begun, pieces, respond)
        except ConnectionLostError as error:
            _LOG.warning("engine broke off in a stream: %s", error)
            exchange.fail(error)
            respond.write(broken_off(exchange.call.dialect, error))
            respond.finish()
            raise
        except asyncio.CancelledError:
            if self._runtime.stopping.is_set():  # else the client has gone, and hears nothing
                respond.write(server_stopped(exchange.call.dialect))
                respond.finish()
            raise
        respond.finish()
        if tap.error is None:
            exchange.outcome = Outcome.COMPLETED
        else:
            exchange.fail()
        return True

    async def _first_events(self, pieces: AsyncIterator[bytes]) -> bytes:
        """Wait until there is something to pass on, or the end."""
        async for piece in pieces:
            whole = self._tap.feed(piece)
            if whole:
                return whole
        return b""

    async def _pass_on(self, begun: bytes, pieces: AsyncIterator[bytes], respond: Responder) -> None:
        tap, whole = self._tap, begun
        while True:
            if whole:
                respond.write(whole)
            if tap.events - self._reported >= _GROWTH_STEP_TOKENS:
                self._runtime.post(TokensGenerated(self._exchange.ticket.request_id, tap.events - self._reported))
                self._reported = tap.events
            await respond.drain()
            piece = await anext(pieces, b"")
            if not piece:
                break
            whole = tap.feed(piece)
        respond.write(tap.flush())


def _is_server_error(error: Mapping[str, Any]) -> bool:
    """Whether another engine might do better: a request that is wrong is wrong everywhere."""
    code = error.get("code")
    return not (isinstance(code, int) and code in CLIENT_ERRORS)


def _length(headers: Headers) -> int | None:
    """Return the announced length of a body in bytes."""
    value = next((value for name, value in headers if name == b"content-length"), b"")
    return int(value) if value.isdigit() else None
