"""All routes of the simulated engine, and the errors that a FastAPI application like vLLM gives for others."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import parse_qs

import msgspec

from thunderagent_core import __version__
from thunderagent_core.engines.simulated.api.errors import ApiError, invalid
from thunderagent_core.engines.simulated.api.fields import Fields, parse_body
from thunderagent_core.engines.simulated.api.inputs import chat_conversation
from thunderagent_core.engines.simulated.conversation import render
from thunderagent_core.engines.simulated.faults import Faults
from thunderagent_core.engines.simulated.generation import SIMULATED, apis
from thunderagent_core.engines.simulated.metrics import CONTENT_TYPE, EngineCollector
from thunderagent_core.engines.simulated.script import ScriptError, parse_script
from thunderagent_core.engines.simulated.tokenizer import decode, encode

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from thunderagent_core.engines.simulated.faults import FaultSwitch
    from thunderagent_core.engines.simulated.generation import Generation
    from thunderagent_core.engines.simulated.publisher import KvEventPublisher
    from thunderagent_core.engines.simulated.runner import EngineRunner
    from thunderagent_core.engines.simulated.settings import EngineSettings
    from thunderagent_core.transport.messages import Request, Responder

    Answer = Callable[[Request, Responder], Awaitable[None]]

LIKE_VLLM: Final = "0.32.0"
"""The vLLM release whose behaviour is simulated; ``/version`` tells it, marked as simulated."""


class Routes:
    """Finds the answer to a request. Everything it needs is given; it holds no state of its own.

    Args:
        settings: of the engine.
        runner: the engine.
        generation: answers generation requests.
        publisher: of KV events.
        faults: what goes wrong.
    """

    def __init__(
        self,
        settings: EngineSettings,
        runner: EngineRunner,
        generation: Generation,
        publisher: KvEventPublisher,
        faults: FaultSwitch,
    ) -> None:
        self._settings = settings
        self._runner = runner
        self._generation = generation
        self._publisher = publisher
        self._faults = faults
        self._collector = EngineCollector(runner.model, settings.model)
        self._started = int(time.time())
        self._apis = apis()
        self._routes: dict[str, dict[str, Answer]] = {
            "/health": {"GET": self._health},
            "/metrics": {"GET": self._metrics},
            "/version": {"GET": self._version},
            "/load": {"GET": self._load},
            "/kv_event_sources": {"GET": self._kv_event_sources},
            "/v1/models": {"GET": self._models},
            "/tokenize": {"POST": self._tokenize},
            "/detokenize": {"POST": self._detokenize},
            "/reset_prefix_cache": {"POST": self._reset_prefix_cache},
            "/simulate/state": {"GET": self._state},
            "/simulate/faults": {
                "GET": self._show_faults,
                "POST": self._change_faults,
                "DELETE": self._clear_faults,
            },
            "/simulate/script": {"POST": self._set_script},
        }

    async def __call__(self, request: Request, responder: Responder) -> None:
        """Answer one request."""
        api = self._apis.get(request.path)
        if api is not None and request.method == "POST":
            await self._generation.answer(api, request, responder)
            return
        answers = self._routes.get(request.path, {})
        answer = answers.get(request.method)
        if answer is not None:
            try:
                await answer(request, responder)
            except ApiError as error:
                _send(responder, error.openai(), error.status)
        elif answers or api is not None:
            _send(responder, {"detail": "Method Not Allowed"}, 405)
        else:
            _send(responder, {"detail": "Not Found"}, 404)

    async def _health(self, _request: Request, responder: Responder) -> None:
        await self._faults.hang_while(lambda faults: faults.hang_health)
        responder.send(503 if self._faults.faults.unhealthy else 200, [SIMULATED], b"")

    async def _metrics(self, _request: Request, responder: Responder) -> None:
        await self._faults.hang_while(lambda faults: faults.hang_metrics)
        status = self._faults.faults.metrics_status
        if status is not None:
            raise ApiError(status, "simulated failure")
        responder.send(200, [(b"content-type", CONTENT_TYPE), SIMULATED], self._collector.exposition())

    async def _version(self, _request: Request, responder: Responder) -> None:
        engine = {"version": f"{LIKE_VLLM}+simulated", "simulated": True, "thunderagent": __version__}
        _send(responder, engine)

    async def _load(self, _request: Request, responder: Responder) -> None:
        _send(responder, {"server_load": self._generation.load})

    async def _kv_event_sources(self, _request: Request, responder: Responder) -> None:
        _send(responder, self._publisher.sources())

    async def _models(self, _request: Request, responder: Responder) -> None:
        model = {
            "id": self._settings.model,
            "object": "model",
            "created": self._started,
            "owned_by": "thunderagent-simulated",
            "root": self._settings.model,
            "parent": None,
            "max_model_len": self._settings.limits.max_model_len,
            "permission": [],
        }
        _send(responder, {"object": "list", "data": [model]})

    async def _tokenize(self, request: Request, responder: Responder) -> None:
        body = _body(request)
        chat = body.has("messages")
        tokens = render(chat_conversation(body)) if chat else encode(body.required_text("prompt"))
        limit = self._settings.limits.max_model_len
        _send(responder, {"count": len(tokens), "max_model_len": limit, "tokens": tokens, "token_strs": None})

    async def _detokenize(self, request: Request, responder: Responder) -> None:
        tokens = _body(request).array("tokens") or []
        if not all(type(token) is int and token >= 0 for token in tokens):
            raise invalid("tokens", "Input should be a list of token ids")
        try:
            _send(responder, {"prompt": decode(tokens)})
        except ValueError as error:
            raise invalid("tokens", str(error)) from None

    async def _reset_prefix_cache(self, request: Request, responder: Responder) -> None:
        reset_running = parse_qs(request.query).get("reset_running_requests", [""])[0].lower() in ("true", "1")
        _send(responder, {"success": self._runner.reset_prefix_cache(reset_running=reset_running)})

    async def _state(self, _request: Request, responder: Responder) -> None:
        model = self._runner.model
        state = {
            "running": model.num_running,
            "waiting": model.num_waiting,
            "used_blocks": model.pool.used_blocks,
            "free_blocks": model.pool.free_blocks,
            "cached_blocks": len(model.pool.cached_hashes),
            "statistics": msgspec.to_builtins(model.statistics),
        }
        _send(responder, state)

    async def _show_faults(self, _request: Request, responder: Responder) -> None:
        _send(responder, msgspec.to_builtins(self._faults.faults))

    async def _change_faults(self, request: Request, responder: Responder) -> None:
        try:
            self._faults.update(_body(request).data)
        except msgspec.ValidationError as error:
            raise invalid("", str(error)) from None
        await self._show_faults(request, responder)

    async def _clear_faults(self, request: Request, responder: Responder) -> None:
        self._faults.set(Faults())
        await self._show_faults(request, responder)

    async def _set_script(self, request: Request, responder: Responder) -> None:
        try:
            self._generation.script = parse_script(_body(request).data, "script")
        except ScriptError as error:
            raise invalid("", str(error)) from None
        _send(responder, {"rules": len(self._generation.script.rules)})


def _body(request: Request) -> Fields:
    return parse_body(request.body, request.header(b"content-type"))


def _send(responder: Responder, body: Any, status: int = 200) -> None:
    responder.send(status, [(b"content-type", b"application/json"), SIMULATED], msgspec.json.encode(body))
