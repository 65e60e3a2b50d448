"""Routes requests to their handlers and turns every error into an answer."""

from __future__ import annotations

import hmac
from typing import TYPE_CHECKING
from urllib.parse import unquote

from thunderagent_core.server.errors import ApiError, forbidden_method
from thunderagent_core.server.wire import SCHEDULED_PATHS, parse_call, passed_call

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from thunderagent_core.server.models import ModelList
    from thunderagent_core.server.proxy import Proxy
    from thunderagent_core.server.routes import Routes
    from thunderagent_core.transport.messages import Request, Responder

    OwnHandler = Callable[[str, bytes, Responder], Awaitable[None] | None]

_PASSED_METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")

_OPEN_PATHS = frozenset({"/health", "/ready"})
"""Probes carry no key."""


class App:
    """The handler that the HTTP server runs for each request.

    Args:
        proxy: serves what goes to engines.
        routes: serves what is ours.
        models: serves ``GET /v1/models``.
        api_keys: keys of which a client must send one, if there are any.
    """

    def __init__(self, proxy: Proxy, routes: Routes, models: ModelList, *, api_keys: tuple[str, ...]) -> None:
        self._proxy = proxy
        self._models = models
        self._routes = _table(routes)
        self._api_keys = tuple(key.encode() for key in api_keys)

    async def __call__(self, request: Request, respond: Responder) -> None:
        """Answer one request."""
        try:
            if self._api_keys and request.path not in _OPEN_PATHS:
                self._authenticate(request)
            dialect = SCHEDULED_PATHS.get(request.path)
            if dialect is not None and request.method == "POST":
                await self._proxy.serve(request, respond, parse_call(dialect, request.headers, request.body))
            elif dialect is not None:
                raise forbidden_method(request.path, ["POST"])
            elif request.path.startswith("/v1/"):
                await self._pass_through(request, respond)
            else:
                await self._ours(request, respond)
        except ApiError as error:
            if respond.started:
                respond.abort()
                raise
            respond.send(error.status, error.headers(), error.body())

    def _authenticate(self, request: Request) -> None:
        authorization = request.header(b"authorization") or b""
        scheme, _, given = authorization.partition(b" ")
        if scheme.lower() != b"bearer":
            given = request.header(b"x-api-key") or b""
        # Every key is compared, so that the time taken tells nothing about which one came close.
        matches = [hmac.compare_digest(given.strip(), key) for key in self._api_keys]
        if not any(matches):
            challenge = ((b"www-authenticate", b"Bearer"),)
            raise ApiError(401, "Missing or wrong API key.", code="invalid_api_key", permanent=True, extra=challenge)

    async def _pass_through(self, request: Request, respond: Responder) -> None:
        if request.path == "/v1/models" and request.method in {"GET", "HEAD"}:
            await self._models.serve(request, respond)
        elif request.method not in _PASSED_METHODS:
            raise forbidden_method(request.path, _PASSED_METHODS)
        else:
            await self._proxy.serve(request, respond, passed_call(request.method, request.path, request.body))

    async def _ours(self, request: Request, respond: Responder) -> None:
        parts = tuple(unquote(part) for part in request.path.split("/")[1:])
        handlers = self._routes.get(parts) or self._routes.get((*parts[:1], "*", *parts[2:]))
        if handlers is None:
            raise ApiError(404, f"No route {request.path}.", code="route_not_found", permanent=True)
        method = "GET" if request.method == "HEAD" and parts != ("events",) else request.method
        if method not in handlers:
            raise forbidden_method(request.path, handlers)
        if method != "GET" and request.header(b"origin") is not None:
            _refuse_browser()
        waiting = handlers[method](parts[1] if len(parts) > 1 else "", request.body, respond)
        if waiting is not None:
            await waiting


def _refuse_browser() -> None:
    """Web pages that a browser shows may send requests to this machine; they have no business with programs.

    Without this, any page could have the prompts sent to an engine of its own by adding it as a backend.
    """
    message = "Requests of web pages (with an Origin header) may not change anything here."
    raise ApiError(403, message, code="browser_request", permanent=True)


def _table(routes: Routes) -> Mapping[tuple[str, ...], Mapping[str, OwnHandler]]:
    """Return the handlers by path and method; ``*`` stands for a percent-encoded name."""
    program: dict[str, OwnHandler] = {"GET": routes.program, "DELETE": routes.release}
    return {
        ("health",): {"GET": routes.health},
        ("ready",): {"GET": routes.ready},
        ("metrics",): {"GET": routes.metrics},
        ("events",): {"GET": routes.events},
        ("scheduling",): {"GET": routes.scheduling},
        ("programs",): {"GET": routes.programs, "POST": routes.register},
        ("programs", "release"): {"POST": routes.release_body, **program},
        ("programs", "*"): program,
        ("programs", "*", "events"): {"POST": routes.report},
        ("backends",): {"GET": routes.backends, "POST": routes.add_backend},
        ("backends", "*"): {"DELETE": routes.drain_backend},
    }
