"""The routes of tool environments: declare, look, wait, run commands, move files, put aside, delete, reap."""

from __future__ import annotations

import re
import time
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import parse_qs

import msgspec

from thunderagent_core.environments.exec import ExecRequest, ExecResult
from thunderagent_core.environments.spec import read_spec
from thunderagent_core.server.bodies import read_body
from thunderagent_core.server.environment_bodies import ExecBody, ReapBody
from thunderagent_core.server.environment_errors import as_api_errors
from thunderagent_core.server.environment_views import (
    ending_event,
    environment_view,
    output_event,
    reap_view,
    result_view,
)
from thunderagent_core.server.errors import ApiError, forbidden_method, invalid, not_found
from thunderagent_core.server.wire import decode_object

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Mapping

    from thunderagent_core.environments.exec import Output
    from thunderagent_core.environments.manager.views import EnvironmentView
    from thunderagent_core.server.environment_door import EnvironmentDoor
    from thunderagent_core.server.runtime import Runtime
    from thunderagent_core.transport.messages import Request, Responder

    Handler = Callable[[Request, "Target", Responder], Awaitable[None]]

_JSON: Final = [(b"content-type", b"application/json")]
_EVENTS: Final = [(b"content-type", b"text/event-stream"), (b"cache-control", b"no-cache")]
_BYTES: Final = [(b"content-type", b"application/octet-stream")]
_PATIENCE_S: Final = 300.0
"""Longest that a command or a look waits for its environment to be made."""


class Target(msgspec.Struct, frozen=True):
    """What a path names. ``name`` is empty for all environments of a program."""

    program_id: str
    name: str


class EnvironmentRoutes:
    """Handlers. Each raises ApiError for what is wrong, before it has changed anything.

    Args:
        runtime: knows which programs live.
        door: leads to the environments, if there are any.
    """

    def __init__(self, runtime: Runtime, door: EnvironmentDoor) -> None:
        self._runtime = runtime
        self._door = door
        one, many = "/programs/*/environments/*", "/programs/*/environments"
        self._table: Mapping[str, Mapping[str, Handler]] = {
            "/environments": {"GET": self._all},
            "/environments/reap": {"POST": self._reap},
            many: {"GET": self._list, "POST": self._declare},
            one: {"GET": self._look, "DELETE": self._delete},
            f"{one}/exec": {"POST": self._exec},
            f"{one}/snapshot": {"POST": self._snapshot},
            f"{one}/files": {"GET": self._download, "PUT": self._upload},
        }

    @staticmethod
    def owns(parts: tuple[str, ...]) -> bool:
        """Tell whether a path is one of environments."""
        return parts[:1] == ("environments",) or (parts[:1] == ("programs",) and parts[2:3] == ("environments",))

    async def serve(self, request: Request, parts: tuple[str, ...], respond: Responder) -> None:
        """Answer a request. Raises ApiError."""
        within_program = parts[0] == "programs"
        starred = "/".join("*" if within_program and index in {1, 3} else part for index, part in enumerate(parts))
        handlers = self._table.get(f"/{starred}")
        if handlers is None:
            raise ApiError(404, f"No route {request.path}.", code="route_not_found", permanent=True)
        method = "GET" if request.method == "HEAD" else request.method
        if method not in handlers:
            raise forbidden_method(request.path, handlers)
        target = Target(parts[1], parts[3] if len(parts) > 3 else "") if within_program else Target("", "")  # noqa: PLR2004
        with as_api_errors():
            await handlers[method](request, target, respond)

    # All of them

    async def _all(self, _request: Request, _target: Target, respond: Responder) -> None:
        _send(respond, 200, {"environments": _shown(self._door.manager.all_views())})

    async def _reap(self, request: Request, _target: Target, respond: Responder) -> None:
        dry_run = read_body(request.body or b"{}", ReapBody).dry_run
        items = await self._door.manager.reap(dry_run=dry_run)
        _send(respond, 200, {"dry_run": dry_run, "items": [reap_view(item) for item in items]})

    # Those of one program

    async def _list(self, _request: Request, target: Target, respond: Responder) -> None:
        self._check_live(target.program_id)
        _send(respond, 200, {"environments": _shown(self._door.manager.views(target.program_id))})

    async def _declare(self, request: Request, target: Target, respond: Responder) -> None:
        self._check_live(target.program_id)
        spec = read_spec(decode_object(request.body))
        new = await self._door.add(target.program_id, spec)
        if new:
            self._door.running.wanted(target.program_id)
        views = [view for view in self._door.manager.views(target.program_id) if view.name == spec.name]
        _send(respond, 201 if new else 200, _shown(views)[-1])

    async def _look(self, request: Request, target: Target, respond: Responder) -> None:
        wait_s = _number(request, "wait_s", 0.0, _PATIENCE_S)
        if wait_s > 0:
            view = await self._door.manager.wait_ready(target.program_id, target.name, wait_s)
        else:
            view = self._find(target)
        _send(respond, 200, environment_view(view, time.time()))

    async def _delete(self, _request: Request, target: Target, respond: Responder) -> None:
        await self._door.manager.delete(target.program_id, target.name)
        _send(respond, 200, {"program_id": target.program_id, "name": target.name, "deleted": True})

    async def _snapshot(self, _request: Request, target: Target, respond: Responder) -> None:
        view = await self._door.manager.snapshot(target.program_id, target.name)
        _send(respond, 200, environment_view(view, time.time()))

    # Commands and files

    async def _exec(self, request: Request, target: Target, respond: Responder) -> None:
        body = read_body(request.body, ExecBody)
        command = ExecRequest(
            command=body.command if isinstance(body.command, str) else tuple(body.command),
            workdir=body.workdir,
            env=body.env,
            timeout_s=body.timeout_s,
            output_limit_bytes=body.output_limit_bytes,
        )
        self._door.running.used(target.program_id)
        try:
            async with self._door.manager.use(target.program_id, target.name, body.wait_s) as executor:
                if body.stream:
                    await _relay(executor.stream(command), respond)
                else:
                    _send(respond, 200, result_view(await executor.run(command), body.encoding))
        finally:
            self._door.running.used(target.program_id)

    async def _upload(self, request: Request, target: Target, respond: Responder) -> None:
        path, mode = _text(request, "path"), _mode(request)
        self._door.running.used(target.program_id)
        async with self._door.manager.use(target.program_id, target.name, _PATIENCE_S) as executor:
            size = await executor.upload(path, request.body, mode)
        _send(respond, 200, {"path": path, "bytes": size})

    async def _download(self, request: Request, target: Target, respond: Responder) -> None:
        path = _text(request, "path")
        self._door.running.used(target.program_id)
        async with self._door.manager.use(target.program_id, target.name, _PATIENCE_S) as executor:
            async for piece in executor.download(path):
                if not respond.started:  # what is wrong with the file shows before its first piece
                    respond.start(200, _BYTES)
                respond.write(piece)
                await respond.drain()
        if not respond.started:
            respond.start(200, _BYTES)
        respond.finish()

    # Helpers

    def _check_live(self, program_id: str) -> None:
        if self._door.running and self._runtime.program(program_id) is None:
            raise not_found("program", program_id)

    def _find(self, target: Target) -> EnvironmentView:
        self._check_live(target.program_id)
        views = [view for view in self._door.manager.views(target.program_id) if view.name == target.name]
        if not views:
            message = f"Program {target.program_id!r} has no environment {target.name!r}."
            raise ApiError(404, message, code="environment_not_found", param="name", permanent=True)
        return views[-1]


async def _relay(pieces: AsyncIterator[Output | ExecResult], respond: Responder) -> None:
    """Send a command's output as it comes, and its end."""
    async for piece in pieces:
        if not respond.started:
            respond.start(200, _EVENTS)
        respond.write(ending_event(piece) if isinstance(piece, ExecResult) else output_event(piece))
        await respond.drain()
    respond.finish()


def _shown(views: list[EnvironmentView]) -> list[dict[str, Any]]:
    now = time.time()
    return [environment_view(view, now) for view in views]


def _text(request: Request, name: str) -> str:
    values = parse_qs(request.query, keep_blank_values=True).get(name)
    if not values:
        raise invalid(f"`{name}` is required in the query.", name, "missing_required_parameter")
    return values[0]


def _mode(request: Request) -> int:
    text = parse_qs(request.query, keep_blank_values=True).get("mode", ["644"])[0]
    if not re.fullmatch("[0-7]{1,4}", text):
        raise invalid(f"`mode` must be octal digits such as 755, not {text!r}.", "mode")
    return int(text, 8)


def _number(request: Request, name: str, default: float, most: float) -> float:
    text = parse_qs(request.query).get(name, [""])[0]
    try:
        number = float(text) if text else default
    except ValueError:
        number = -1.0
    if not 0 <= number <= most:
        raise invalid(f"`{name}` must be a number from 0 to {most:g}, not {text!r}.", name)
    return number


def _send(respond: Responder, status: int, content: Any) -> None:
    respond.send(status, _JSON, msgspec.json.encode(content))
