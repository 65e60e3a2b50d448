"""``GET /v1/models``: the union of what the engines serve."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import msgspec

from thunderagent_core.server.errors import ApiError
from thunderagent_core.server.headers import answer_headers
from thunderagent_core.transport.messages import TransportError

if TYPE_CHECKING:
    from thunderagent_core.server.fleet import Engine, Fleet
    from thunderagent_core.server.headers import EngineHeaders
    from thunderagent_core.transport.messages import Headers, Request, Responder

_TIMEOUT_S = 5.0


@dataclass(frozen=True, slots=True)
class _Answer:
    status: int
    headers: Headers
    body: bytes
    models: list[dict[str, Any]] = field(default_factory=list)


class ModelList:
    """Asks every healthy engine at once; one that does not answer in time is left out."""

    def __init__(self, fleet: Fleet, headers: EngineHeaders) -> None:
        self._fleet = fleet
        self._headers = headers

    async def serve(self, request: Request, respond: Responder) -> None:
        """Answer with each model once; where every engine refuses, with the first refusal as it is.

        Raises ApiError (503) where no engine answers.
        """
        headers = self._headers.credentials(request.headers)
        engines = [engine for engine in self._fleet.engines.values() if engine.problem is None]
        answers = [a for a in await asyncio.gather(*(_ask(engine, headers) for engine in engines)) if a is not None]
        if not answers:
            raise ApiError(503, "No healthy backend.", code="no_healthy_backend", retry_after_s=5.0)
        listed = {model["id"]: model for answer in answers for model in answer.models}
        if not listed:
            respond.send(answers[0].status, answer_headers(answers[0].status, answers[0].headers), answers[0].body)
            return
        body = msgspec.json.encode({"object": "list", "data": list(listed.values())})
        respond.send(200, [(b"content-type", b"application/json")], body)


async def _ask(engine: Engine, headers: Headers) -> _Answer | None:
    try:
        async with asyncio.timeout(_TIMEOUT_S):
            response = await engine.pool.request("GET", "/v1/models", headers, b"")
            try:
                body = await response.read()
            finally:
                response.close()
    except (TransportError, TimeoutError):
        return None
    return _Answer(response.status, response.headers, body, _models(body))


def _models(body: bytes) -> list[dict[str, Any]]:
    """Return the models that an answer lists; none where it is not a list of models."""
    try:
        content = msgspec.json.decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return []
    data = content.get("data") if isinstance(content, dict) else None
    if not isinstance(data, list):
        return []
    return [model for model in data if isinstance(model, dict) and isinstance(model.get("id"), str)]
