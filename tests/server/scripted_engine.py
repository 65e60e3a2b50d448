"""An engine on real sockets that does what a test tells it to, and remembers what it was asked."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from thunderagent_core.transport.messages import Request, Responder
from thunderagent_core.transport.server import HttpServer

RECORDED = Path(__file__).parent.parent / "recorded" / "vllm-0.32"

Reply = Callable[["ScriptedEngine", Request, Responder], Awaitable[None]]

_POLLED = {"/metrics", "/health", "/version", "/v1/models", "/get_server_info"}

JSON = [(b"content-type", b"application/json")]
EVENTS = [(b"content-type", b"text/event-stream; charset=utf-8")]


def recorded(name: str) -> bytes:
    """Return what a real vLLM once answered."""
    return (RECORDED / name).read_bytes()


def _set_event() -> asyncio.Event:
    event = asyncio.Event()
    event.set()
    return event


@dataclass
class ScriptedEngine:
    """Looks like vLLM to a poller; answers everything else with ``reply``."""

    capacity_tokens: int | None = 16384
    models: tuple[str, ...] = ("m",)
    reply: Reply | None = None
    seen: list[Request] = field(default_factory=list)
    polls: int = 0
    answers_polls: asyncio.Event = field(default_factory=_set_event)
    metrics_status: int = 200
    prompt_tokens: int = 0
    open: int = 0
    broken_off: int = 0
    port: int = 0
    http: HttpServer | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def id(self) -> str:
        return f"127.0.0.1-{self.port}"

    async def start(self) -> None:
        self.http = HttpServer(self._handle)
        await self.http.start("127.0.0.1", self.port)
        self.port = self.http.port

    async def stop(self) -> None:
        """Vanish as a killed process does: connections break off, nobody listens any more."""
        if self.http is not None:
            http, self.http = self.http, None
            await http.stop(0.0)

    def bodies(self) -> list[Any]:
        return [json.loads(request.body) for request in self.seen]

    async def _handle(self, request: Request, respond: Responder) -> None:
        if request.path in _POLLED and request.method == "GET" and not self._asked_by_client(request):
            await self._poll(request, respond)
            return
        self.seen.append(request)
        self.open += 1
        try:
            await (self.reply or answer)(self, request, respond)
        except asyncio.CancelledError:
            self.broken_off += 1
            raise
        finally:
            self.open -= 1

    def _asked_by_client(self, request: Request) -> bool:
        return request.header(b"x-test") is not None

    async def _poll(self, request: Request, respond: Responder) -> None:
        self.polls += 1
        await self.answers_polls.wait()
        match request.path:
            case "/metrics":
                respond.send(self.metrics_status, [(b"content-type", b"text/plain; version=1.0.0")], self._metrics())
            case "/version":
                respond.send(200, JSON, b'{"version":"0.32.0"}')
            case "/health":
                respond.send(200, [], b"")
            case "/v1/models":
                listed = [{"id": model, "object": "model", "owned_by": "vllm"} for model in self.models]
                respond.send(200, JSON, json.dumps({"object": "list", "data": listed}).encode())
            case _:
                respond.send(404, JSON, b'{"detail":"Not Found"}')

    def _metrics(self) -> bytes:
        label = f'engine="0",model_name="{self.models[0]}"'
        lines = [
            f"vllm:num_requests_running{{{label}}} {self.open}.0",
            f"vllm:num_requests_waiting{{{label}}} 0.0",
            f"vllm:kv_cache_usage_perc{{{label}}} 0.25",
            f"vllm:prefix_cache_queries_total{{{label}}} {self.prompt_tokens}.0",
            f"vllm:prefix_cache_hits_total{{{label}}} {self.prompt_tokens // 2}.0",
            f"vllm:num_preemptions_total{{{label}}} 0.0",
        ]
        if self.capacity_tokens is not None:
            sizes = f'block_size="16",num_gpu_blocks="{self.capacity_tokens // 16}"'
            sizes += f',kv_cache_size_tokens="{self.capacity_tokens}"'
            lines.append(f'vllm:cache_config_info{{engine="0",{sizes}}} 1.0')
        return ("\n".join(lines) + "\n").encode()


# Replies.


def tokens_of(request: Request) -> int:
    """Count a prompt as the engine does: four characters to the token."""
    return max(1, len(json.dumps(json.loads(request.body).get("messages") or "")) // 4)


async def answer(engine: ScriptedEngine, request: Request, respond: Responder) -> None:
    """A short chat completion, streamed where that was asked for."""
    body = json.loads(request.body) if request.body.startswith(b"{") else {}
    usage = {"prompt_tokens": tokens_of(request) if body else 0, "completion_tokens": 2}
    engine.prompt_tokens += usage["prompt_tokens"]
    if not body.get("stream"):
        choices = [{"index": 0, "message": {"role": "assistant", "content": "all well"}}]
        respond.send(200, JSON, json.dumps({"id": "x", "choices": choices, "usage": usage}).encode())
        return
    respond.start(200, EVENTS)
    respond.write(delta("all") + delta(" well"))
    if (body.get("stream_options") or {}).get("include_usage"):
        respond.write(b"data: " + json.dumps({"id": "x", "choices": [], "usage": usage}).encode() + b"\n\n")
    respond.write(b"data: [DONE]\n\n")
    respond.finish()


def delta(text: str) -> bytes:
    """One streamed chunk."""
    return b"data: " + json.dumps({"id": "x", "choices": [{"index": 0, "delta": {"content": text}}]}).encode() + b"\n\n"


def whole(status: int, body: bytes, headers: list[tuple[bytes, bytes]] = JSON) -> Reply:
    """The same answer to everything."""

    async def reply(engine: ScriptedEngine, request: Request, respond: Responder) -> None:
        respond.send(status, headers, body)

    return reply


def streamed(body: bytes, size: int = 1 << 20) -> Reply:
    """A stream, written in pieces of ``size`` bytes."""

    async def reply(engine: ScriptedEngine, request: Request, respond: Responder) -> None:
        respond.start(200, EVENTS)
        for start in range(0, len(body), size):
            respond.write(body[start : start + size])
            await asyncio.sleep(0)
        respond.finish()

    return reply


async def die(engine: ScriptedEngine, request: Request, respond: Responder) -> None:
    """Break off before the first byte."""
    respond.abort()


def die_after(start: bytes, headers: list[tuple[bytes, bytes]] = EVENTS) -> Reply:
    """Break off in the middle."""

    async def reply(engine: ScriptedEngine, request: Request, respond: Responder) -> None:
        respond.start(200, headers)
        respond.write(start)
        await asyncio.sleep(0.02)  # so that it is on its way before the end; nothing depends on the time
        respond.abort()

    return reply


def die_in_whole(start: bytes) -> Reply:
    """Announce more than is sent."""

    async def reply(engine: ScriptedEngine, request: Request, respond: Responder) -> None:
        respond.start(200, JSON, length=len(start) + 1000)
        respond.write(start)
        await asyncio.sleep(0.02)
        respond.abort()

    return reply


class Gate:
    """Holds replies back until the test opens it."""

    def __init__(self, then: Reply = answer, first: bytes | None = None, last: bytes = b"data: [DONE]\n\n") -> None:
        self.then = then
        self.first = first
        self.last = last
        self.arrived = 0
        self.opened = asyncio.Event()

    async def __call__(self, engine: ScriptedEngine, request: Request, respond: Responder) -> None:
        self.arrived += 1
        if self.first is not None:
            respond.start(200, EVENTS)
            respond.write(self.first)
            await self.opened.wait()
            respond.write(self.last)
            respond.finish()
            return
        await self.opened.wait()
        await self.then(engine, request, respond)

    def open(self) -> None:
        self.opened.set()
