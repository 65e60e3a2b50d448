"""A server that answers as it is told, in a thread of its own, so that synchronous clients can be tested as well."""

from __future__ import annotations

import asyncio
import json
import threading
from collections import deque
from dataclasses import dataclass
from typing import Any

from thunderagent_core.transport.server import HttpServer


@dataclass(frozen=True)
class Seen:
    """One request that arrived; ``path`` as it was sent."""

    method: str
    path: str
    headers: dict[str, str]
    body: Any

    @property
    def line(self) -> str:
        return f"{self.method} {self.path}"


def view(program_id="p", **fields):
    return {"program_id": program_id, "status": "active", "phase": "acting", **fields}


def reply(status, body=None, **headers):
    """Answer with JSON; ``headers`` with underscores for hyphens."""
    pairs = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]

    async def answer(responder):
        responder.send(status, [(b"content-type", b"application/json"), *pairs], json.dumps(body).encode())

    return answer


def error(status, message="no", code="nope", param=None, **headers):
    fields = {"message": message, "type": "some_error", "param": param, "code": code}
    return reply(status, {"error": fields}, **headers)


def stream(*events, end=b"data: [DONE]\n\n"):
    """Answer with server-sent events; ``end`` empty: as if the answer were cut short."""

    async def answer(responder):
        responder.start(200, [(b"content-type", b"text/event-stream")])
        for event in events:
            responder.write(event if isinstance(event, bytes) else b"data: " + json.dumps(event).encode() + b"\n\n")
        responder.write(end)
        responder.finish()

    return answer


async def broken(responder):
    """Break the connection off without an answer."""
    responder.abort()


async def silent(responder):
    """Never answer."""
    await asyncio.Event().wait()


DEFAULTS = {
    "POST /programs": reply(201, view()),
    "GET /programs": reply(200, {"programs": [view("a"), view("b")], "waiting": 1}),
    "POST /programs/release": reply(200, {"program_id": "p", "released": True}),
    "GET /backends": reply(200, {"backends": []}),
    "GET /health": reply(200, {"status": "ok"}),
    "GET /ready": reply(200, {"status": "ready"}),
    "POST /v1/chat/completions": reply(200, {"choices": []}),
    "POST /v1/completions": reply(200, {"choices": []}),
}


class FakeServer:
    """Answers with what is in ``next`` for the route, if anything, else as ``DEFAULTS`` says, else with a view."""

    def __init__(self):
        self.seen = []
        self.next = {}
        self._arrived = threading.Condition()
        self._loop = asyncio.new_event_loop()
        self._http = HttpServer(self._handle)
        self._thread = threading.Thread(target=self._loop.run_forever)

    def __enter__(self):
        self._thread.start()
        self._run(self._http.start("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._http.port}"
        return self

    def __exit__(self, *exc):
        self._run(self._http.stop(0))
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    @property
    def lines(self):
        """Method and path of each request so far."""
        return [seen.line for seen in self.seen]

    def then(self, line, *answers):
        """Answer the next requests for a route like this."""
        self.next.setdefault(line, deque()).extend(answers)

    def wait_for(self, count):
        """Wait until so many requests have arrived."""
        with self._arrived:
            assert self._arrived.wait_for(lambda: len(self.seen) >= count, timeout=60)

    def _run(self, work):
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(60)

    async def _handle(self, request, responder):
        headers = {name.decode(): value.decode() for name, value in request.headers}
        body = json.loads(request.body) if request.body else None
        seen = Seen(request.method, request.path, headers, body)
        with self._arrived:
            self.seen.append(seen)
            self._arrived.notify_all()
        scripted = self.next.get(seen.line)
        answer = scripted.popleft() if scripted else DEFAULTS.get(seen.line, reply(200, view()))
        await answer(responder)
