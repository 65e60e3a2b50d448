"""Routes requests to their handlers and turns every error into an answer."""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import unquote

from thunderagent_core.server.errors import ApiError, forbidden_method
from thunderagent_core.server.wire import SCHEDULED_PATHS, parse_call, passed_call

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from thunderagent_core.server.access import Access
    from thunderagent_core.server.environment_routes import EnvironmentRoutes
    from thunderagent_core.server.models import ModelList
    from thunderagent_core.server.proxy import Proxy
    from thunderagent_core.server.routes import Routes
    from thunderagent_core.transport.messages import Request, Responder

    OwnHandler = Callable[[str, bytes, Responder], Awaitable[None] | None]

_PASSED_METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")


class App:
    """The handler that the HTTP server runs for each request.

    Args:
        proxy: serves what goes to engines.
        routes: serves what is ours.
        environments: serves tool environments.
        models: serves ``GET /v1/models``.
        access: what web pages may do.
    """

    def __init__(
        self, proxy: Proxy, routes: Routes, environments: EnvironmentRoutes, models: ModelList, access: Access
    ) -> None:
        self._proxy = proxy
        self._environments = environments
        self._models = models
        self._routes = _table(routes)
        self._access = access

    async def __call__(self, request: Request, respond: Responder) -> None:
        """Answer one request."""
        try:
            dialect = SCHEDULED_PATHS.get(request.path)
            if dialect is not None and request.method == "POST":
                self._access.check_page(request)
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

    async def _pass_through(self, request: Request, respond: Responder) -> None:
        if request.path == "/v1/models" and request.method in {"GET", "HEAD"}:
            await self._models.serve(request, respond)
        elif request.method not in _PASSED_METHODS:
            raise forbidden_method(request.path, _PASSED_METHODS)
        else:
            self._access.check_page(request)
            await self._proxy.serve(request, respond, passed_call(request.method, request.path, request.body))

    async def _ours(self, request: Request, respond: Responder) -> None:
        parts = tuple(unquote(part) for part in request.path.split("/")[1:])
        if self._environments.owns(parts):
            self._access.check_own_route(request)
            await self._environments.serve(request, parts, respond)
            return
        handlers = self._routes.get(parts) or self._routes.get((*parts[:1], "*", *parts[2:]))
        if handlers is None:
            raise ApiError(404, f"No route {request.path}.", code="route_not_found", permanent=True)
        method = "GET" if request.method == "HEAD" and parts != ("events",) else request.method
        if method not in handlers:
            raise forbidden_method(request.path, handlers)
        self._access.check_own_route(request)
        waiting = handlers[method](parts[1] if len(parts) > 1 else "", request.body, respond)
        if waiting is not None:
            await waiting


def _table(routes: Routes) -> Mapping[tuple[str, ...], Mapping[str, OwnHandler]]:
    """Return the handlers by path and method; ``*`` stands for a percent-encoded name."""
    program: dict[str, OwnHandler] = {"GET": routes.program, "DELETE": routes.release}
    return {
        ("health",): {"GET": routes.health},
        ("ready",): {"GET": routes.ready},
        ("metrics",): {"GET": routes.metrics},
        ("openapi.json",): {"GET": routes.openapi},
        ("events",): {"GET": routes.events},
        ("scheduling",): {"GET": routes.scheduling},
        ("programs",): {"GET": routes.programs, "POST": routes.register},
        ("programs", "release"): {"POST": routes.release_body, **program},
        ("programs", "*"): program,
        ("programs", "*", "events"): {"POST": routes.report},
        ("backends",): {"GET": routes.backends, "POST": routes.add_backend},
        ("backends", "*"): {"DELETE": routes.drain_backend},
    }
