"""Answers generation requests on all four APIs: parse, decide the answer, run it through the engine, write it."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final
from uuid import uuid4

import msgspec

from thunderagent_core.engines.simulated.api.chat import parse_chat
from thunderagent_core.engines.simulated.api.completions import parse_completion
from thunderagent_core.engines.simulated.api.errors import ApiError, prompt_too_long, unknown_model
from thunderagent_core.engines.simulated.api.fields import Fields, parse_body
from thunderagent_core.engines.simulated.api.formats import Identity, Usage
from thunderagent_core.engines.simulated.api.messages import parse_messages
from thunderagent_core.engines.simulated.api.responses import parse_responses
from thunderagent_core.engines.simulated.replies import assemble, decide
from thunderagent_core.engines.simulated.requests import EngineRequest

if TYPE_CHECKING:
    from collections.abc import Callable

    from thunderagent_core.engines.simulated.api.formats import Asked
    from thunderagent_core.engines.simulated.faults import FaultSwitch
    from thunderagent_core.engines.simulated.replies import Answer, Wish
    from thunderagent_core.engines.simulated.requests import TokenOutput
    from thunderagent_core.engines.simulated.runner import EngineRunner, TokenStream
    from thunderagent_core.engines.simulated.script import Reply, Script
    from thunderagent_core.engines.simulated.settings import EngineSettings
    from thunderagent_core.transport.messages import Request, Responder

SIMULATED: Final = (b"x-simulated-engine", b"thunderagent")
"""Header of every answer."""

_JSON: Final = [(b"content-type", b"application/json"), SIMULATED]
_EVENTS: Final = [(b"content-type", b"text/event-stream; charset=utf-8"), (b"cache-control", b"no-cache"), SIMULATED]


@dataclass(frozen=True, slots=True)
class Api:
    """One generation route: how its bodies are read and how its errors look."""

    parse: Callable[[Fields, Identity], Asked]
    error: Callable[[ApiError], dict[str, Any]] = ApiError.openai


def apis() -> dict[str, Api]:
    """Return the generation APIs by path."""
    return {
        "/v1/chat/completions": Api(parse_chat),
        "/v1/completions": Api(parse_completion),
        "/v1/responses": Api(parse_responses),
        "/v1/messages": Api(parse_messages, ApiError.anthropic),
    }


class Generation:
    """Answers generation requests.

    Args:
        runner: the engine.
        settings: names, lengths and block size.
        faults: what goes wrong.
        script: what is answered; may be exchanged at any time.
    """

    def __init__(self, runner: EngineRunner, settings: EngineSettings, faults: FaultSwitch, script: Script) -> None:
        self.script = script
        self.load = 0
        self._runner = runner
        self._settings = settings
        self._faults = faults
        self._requests = 0

    async def answer(self, api: Api, request: Request, responder: Responder) -> None:
        """Answer one request. Cancelling this aborts it in the engine."""
        self.load += 1
        try:
            await self._answer(api, request, responder)
        except ApiError as error:
            responder.send(error.status, _JSON, msgspec.json.encode(api.error(error)))
        finally:
            self.load -= 1

    async def _answer(self, api: Api, request: Request, responder: Responder) -> None:
        await self._faults.hang_while(lambda faults: faults.hang_generation)
        status = self._faults.take_generation_status()
        if status is not None:
            raise ApiError(status, "simulated failure")
        body = parse_body(request.body, request.header(b"content-type"))
        self._check_model(body)
        asked = api.parse(body, self._identity(request))
        session_id = _session_id(body, request)
        reply = self.script.reply_for(asked.conversation, session_id)
        if reply is not None and reply.status is not None:
            raise ApiError(reply.status, reply.message)
        if reply is not None:
            await self._runner.pause(reply.delay_s)
        answer = decide(self._within_context(asked.wish), reply, self._settings.reply_tokens)
        self._requests += 1
        engine_request = EngineRequest(
            str(self._requests), asked.wish.prompt, answer.tokens, answer.finish_reason, session_id
        )
        with self._runner.submit(engine_request) as stream:
            writer = _Writer(asked, answer, self._settings.block_tokens, self._death(reply))
            await (writer.stream(stream, responder) if asked.stream else writer.whole(stream, responder))

    def _within_context(self, wish: Wish) -> Wish:
        """Return the wish with no more tokens than the context has room for; as in vLLM one must fit."""
        limit = self._settings.limits.max_model_len
        room = limit - len(wish.prompt)
        if room < 1:
            raise prompt_too_long(len(wish.prompt), limit)
        return wish if wish.max_tokens is None else replace(wish, max_tokens=min(wish.max_tokens, room))

    def _check_model(self, body: Fields) -> None:
        model = body.text("model")
        if model and model != self._settings.model:
            raise unknown_model(model, self._settings.model)

    def _identity(self, request: Request) -> Identity:
        given = request.header(b"x-request-id")
        suffix = given.decode("latin-1") if given else uuid4().hex[:16]
        return Identity(suffix, int(time.time()), self._settings.model)

    def _death(self, reply: Reply | None) -> int | None:
        if reply is not None and reply.die_after_tokens is not None:
            return reply.die_after_tokens
        return self._faults.take_death()


class _Writer:
    """Writes one answer while its tokens are generated.

    Args:
        asked: the request.
        answer: what each token shows.
        block_tokens: tokens in a block, for the count of newly cached tokens.
        die_after: break off after this many tokens.
    """

    def __init__(self, asked: Asked, answer: Answer, block_tokens: int, die_after: int | None) -> None:
        self._asked = asked
        self._answer = answer
        self._block_tokens = block_tokens
        self._die_after = die_after

    async def stream(self, stream: TokenStream, responder: Responder) -> None:
        """Send each token when it is there."""
        form = self._asked.format
        if self._die_after != 0:
            responder.start(200, _EVENTS)
            responder.write(form.begin())
        async for output in stream:
            if output.index == self._die_after:
                responder.abort()
                return
            usage = self._usage(output)
            _, piece = self._answer.shown[output.index]
            event = form.first(replace(usage, completion_tokens=0)) if output.index == 0 else b""
            event += form.token(piece, output.finish_reason, usage)
            if output.finish_reason is not None:
                event += form.end(usage)
            responder.write(event)
            await responder.drain()
        responder.finish()

    async def whole(self, stream: TokenStream, responder: Responder) -> None:
        """Send everything once the last token is there."""
        async for output in stream:
            if output.index == self._die_after:
                responder.abort()
                return
            last = output
        turn = assemble(piece for _, piece in self._answer.shown[: last.index + 1])
        body = self._asked.format.whole(turn, last.finish_reason or "stop", self._usage(last))
        responder.send(200, _JSON, msgspec.json.encode(body))

    def _usage(self, output: TokenOutput) -> Usage:
        prompt = len(self._asked.wish.prompt)
        in_blocks = prompt // self._block_tokens * self._block_tokens
        return Usage(prompt, output.index + 1, output.cached_tokens, max(0, in_blocks - output.cached_tokens))


def _session_id(body: Fields, request: Request) -> str | None:
    """Return the session as vLLM finds it: in the body, else in a header, else among the engine's arguments."""
    if given := body.text("session_id"):
        return given
    if header := request.header(b"x-session-id"):
        return header.decode("latin-1")
    arguments = body.object("vllm_xargs")
    value = arguments.data.get("session_id") if arguments is not None else None
    return value if isinstance(value, str) and value else None
