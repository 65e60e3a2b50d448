"""Our own routes: programs, backends, health, metrics, decisions."""

from __future__ import annotations

import asyncio
from dataclasses import asdict, replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from thunderagent_core.scheduling.events import ProgramReleased
from thunderagent_core.server.bodies import BackendBody, ReleaseBody, read_body, read_event, read_registration
from thunderagent_core.server.errors import ApiError, invalid, not_found, stopping
from thunderagent_core.server.feed import DecisionFeed
from thunderagent_core.server.fleet import KnownBackendError
from thunderagent_core.server.views import backend_view, program_view
from thunderagent_core.server.wire import check_program_id

if TYPE_CHECKING:
    from thunderagent_core.scheduling.events import ProgramRegistered
    from thunderagent_core.scheduling.program import Program
    from thunderagent_core.server.environment_door import EnvironmentDoor
    from thunderagent_core.server.fleet import Fleet
    from thunderagent_core.server.metrics import MetricsPage
    from thunderagent_core.server.runtime import Runtime
    from thunderagent_core.transport.messages import Responder

_JSON = [(b"content-type", b"application/json")]

_OPENAPI = Path(__file__).with_name("openapi.json")

_PROGRAMS_AT_ONCE = 200
"""Programs listed before the other requests get their turn: a hundred thousand take seconds."""


class Routes:
    """Handlers. Each is given the name in its path (or nothing), the body, and where to answer.

    Each raises ApiError for what is wrong, before it has changed anything.
    """

    def __init__(self, runtime: Runtime, fleet: Fleet, metrics: MetricsPage, door: EnvironmentDoor) -> None:
        self._runtime = runtime
        self._fleet = fleet
        self._metrics = metrics
        self._door = door

    # Programs

    async def register(self, _name: str, body: bytes, respond: Responder) -> None:
        """``POST /programs``: 201, again with the same body 200, with another one 409."""
        event, specs = read_registration(body)
        self._check_same(event)
        if not specs:
            self._register(event, respond)
            return
        try:
            new = await self._door.declare(event.program_id, specs, event.parent_id)
            self._check_same(event)
            self._register(replace(event, environments=new), respond)
        finally:
            self._door.withdraw(event.program_id)

    def _check_same(self, event: ProgramRegistered) -> None:
        program = self._runtime.program(event.program_id)
        if program is not None and program.registered and _spec(program) != _spec(event):
            message = f"The program {event.program_id!r} is registered with another specification."
            raise ApiError(409, message, code="program_conflict", param="program_id", permanent=True)

    def _register(self, event: ProgramRegistered, respond: Responder) -> None:
        program = self._runtime.program(event.program_id)
        known = program is not None and program.registered
        if not known:
            self._runtime.post(event)
        elif event.environments:
            self._door.running.wanted(event.program_id)
        _send(respond, 200 if known else 201, self._view(event.program_id))

    def _view(self, program_id: str) -> dict[str, Any]:
        view = program_view(self._live(program_id), self._runtime.now)
        return view | {"environments": self._door.summary(program_id)}

    async def programs(self, _name: str, _body: bytes, respond: Responder) -> None:
        """``GET /programs``."""
        programs = iter(list(self._runtime.scheduler.programs.values()))
        respond.start(200, _JSON)
        respond.write(b'{"waiting":%d,"programs":[' % self._runtime.scheduler.waiting)
        separator = b""
        while batch := list(islice(programs, _PROGRAMS_AT_ONCE)):
            now = self._runtime.now
            views = [msgspec.json.encode(program_view(p, now)) for p in batch if self._runtime.program(p.id) is p]
            if views:
                respond.write(separator + b",".join(views))
                separator = b","
            await respond.drain()
            await asyncio.sleep(0)
        respond.write(b"]}")
        respond.finish()

    def program(self, program_id: str, _body: bytes, respond: Responder) -> None:
        """``GET /programs/{id}``."""
        _send(respond, 200, self._view(program_id))

    def report(self, program_id: str, body: bytes, respond: Responder) -> None:
        """``POST /programs/{id}/events``."""
        self._live(program_id)
        self._runtime.post(read_event(program_id, body))
        _send(respond, 202, program_view(self._live(program_id), self._runtime.now))

    async def release_body(self, _name: str, body: bytes, respond: Responder) -> None:
        """``POST /programs/release``."""
        await self.release(read_body(body, ReleaseBody).program_id, b"", respond)

    async def release(self, program_id: str, _body: bytes, respond: Responder) -> None:
        """``DELETE /programs/{id}``: idempotent; answered once the end is on record."""
        check_program_id(program_id)
        released = self._runtime.program(program_id) is not None
        if not released and program_id not in self._runtime.ended:
            raise not_found("program", program_id)
        if released:
            self._runtime.post(ProgramReleased(program_id))
            await self._door.settled(program_id)
        _send(respond, 200, {"program_id": program_id, "released": released})

    def _live(self, program_id: str) -> Program:
        program = self._runtime.program(program_id)
        if program is None:
            raise not_found("program", program_id)
        return program

    # Backends

    def backends(self, _name: str, _body: bytes, respond: Responder) -> None:
        """``GET /backends``."""
        _send(respond, 200, {"backends": [self._backend(backend_id) for backend_id in self._fleet.engines]})

    def add_backend(self, _name: str, body: bytes, respond: Responder) -> None:
        """``POST /backends``: 201, watched from now on and used from its first good answer; again the same URL: 200."""
        url = read_body(body, BackendBody).url
        try:
            engine = self._fleet.add(url)
        except KnownBackendError as known:
            self._known_backend(known, respond)
        except ValueError as error:
            raise invalid(f"{error}.", "url") from error
        else:
            self._fleet.watch(engine)
            _send(respond, 201, self._backend(engine.id))

    def _known_backend(self, known: KnownBackendError, respond: Responder) -> None:
        if not known.same_url:
            raise ApiError(409, f"{known}.", code="backend_conflict", param="url", permanent=True)
        if self._runtime.scheduler.backends[known.backend_id].draining:
            message = f"{known} and being drained; it can be added again once it is gone."
            raise ApiError(409, message, code="backend_draining", param="url", retry_after_s=5.0)
        _send(respond, 200, self._backend(known.backend_id))

    def drain_backend(self, backend_id: str, _body: bytes, respond: Responder) -> None:
        """``DELETE /backends/{id}``: nothing new goes there; it leaves once nothing is in flight."""
        if backend_id not in self._fleet.engines:
            raise not_found("backend", backend_id)
        self._fleet.drain(backend_id)
        _send(respond, 202, {"id": backend_id, "draining": True})

    def _backend(self, backend_id: str) -> dict[str, Any]:
        backend = self._runtime.scheduler.backends[backend_id]
        return backend_view(self._fleet.engines[backend_id], backend, self._runtime.now)

    # The server itself

    def health(self, _name: str, _body: bytes, respond: Responder) -> None:
        """``GET /health``: the process lives."""
        _send(respond, 200, {"status": "ok"})

    def ready(self, _name: str, _body: bytes, respond: Responder) -> None:
        """``GET /ready``: at least one engine can be used, and the server does not stop."""
        if self._runtime.stopping.is_set():
            raise stopping()
        if not any(backend.open for backend in self._runtime.scheduler.backends.values()):
            raise ApiError(503, "No healthy backend.", code="no_healthy_backend", retry_after_s=5.0)
        _send(respond, 200, {"status": "ready"})

    def openapi(self, _name: str, _body: bytes, respond: Responder) -> None:
        """``GET /openapi.json``: what there is, for programs that write clients."""
        respond.send(200, _JSON, _OPENAPI.read_bytes())

    def metrics(self, _name: str, _body: bytes, respond: Responder) -> None:
        """``GET /metrics``."""
        respond.send(200, [(b"content-type", self._metrics.content_type)], self._metrics.render())

    def scheduling(self, _name: str, _body: bytes, respond: Responder) -> None:
        """``GET /scheduling``: the policy and the settings in force, and how much there is to schedule."""
        scheduler = self._runtime.scheduler
        content = {
            "policy": scheduler.policy.name,
            "settings": asdict(scheduler.settings),
            "programs": len(scheduler.programs),
            "waiting": scheduler.waiting,
            "open_requests": scheduler.open_requests,
        }
        _send(respond, 200, content)

    async def events(self, _name: str, _body: bytes, respond: Responder) -> None:
        """``GET /events``: each decision with its reason, as it is taken, until the client or the server ends."""
        await DecisionFeed(self._runtime, respond).run()


def _spec(program: Program | ProgramRegistered) -> tuple[str | None, str | None, int]:
    return program.parent_id, program.group, program.priority


def _send(respond: Responder, status: int, content: Any) -> None:
    respond.send(status, _JSON, msgspec.json.encode(content))
