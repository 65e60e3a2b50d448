"""The stream of ``GET /events``: each decision with its reason, as it is taken."""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import fields
from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from thunderagent_core.scheduling.decisions import Decision
    from thunderagent_core.server.runtime import Runtime
    from thunderagent_core.transport.messages import Responder

MAX_UNREAD_EVENTS = 10_000
"""Decisions kept for a listener that reads slowly; then it is cut off rather than lied to."""

_HEARTBEAT_S = 15.0

_HEADERS = [(b"content-type", b"text/event-stream"), (b"cache-control", b"no-cache")]


class DecisionFeed:
    """One listener. Decisions are put into words when they are sent, not while they are taken."""

    def __init__(self, runtime: Runtime, respond: Responder) -> None:
        self._runtime = runtime
        self._respond = respond
        self._unread: deque[tuple[float, Decision]] = deque()
        self._news = asyncio.Event()
        self._overrun = False

    async def run(self) -> None:
        """Send decisions until the listener goes or lags too far behind, or the server stops."""
        runtime, respond = self._runtime, self._respond
        runtime.listeners.add(self._listen)
        stopping = asyncio.ensure_future(runtime.stopping.wait())
        stopping.add_done_callback(lambda _: self._news.set())
        try:
            respond.start(200, _HEADERS)
            respond.write(b": decisions of the scheduler\n\n")
            while not (self._overrun or runtime.stopping.is_set()):
                respond.write(await self._next())
                await respond.drain()
            if not self._overrun:
                respond.write(self._take())  # taken while the last ones were being sent
                respond.finish()
        finally:
            runtime.listeners.discard(self._listen)
            stopping.cancel()

    def _listen(self, now: float, decision: Decision) -> None:
        if self._overrun:
            return
        if len(self._unread) >= MAX_UNREAD_EVENTS:
            self._overrun = True
            self._unread.clear()
            self._respond.abort()  # which also ends the wait for a client that takes nothing
        else:
            self._unread.append((now, decision))
        self._news.set()

    async def _next(self) -> bytes:
        """Wait for decisions and return all that there are."""
        try:
            async with asyncio.timeout(_HEARTBEAT_S):
                await self._news.wait()
        except TimeoutError:
            return b": still here\n\n"
        self._news.clear()
        return self._take()

    def _take(self) -> bytes:
        events = b"".join(_event(now, decision) for now, decision in self._unread)
        self._unread.clear()
        return events


def _event(now: float, decision: Decision) -> bytes:
    kind = type(decision).__name__
    values = {field.name: getattr(decision, field.name) for field in fields(decision)}
    content = {"now": round(now, 6), "type": kind, **values, "reason": decision.reason}
    return f"event: {kind.lower()}\n".encode() + b"data: " + msgspec.json.encode(content) + b"\n\n"
