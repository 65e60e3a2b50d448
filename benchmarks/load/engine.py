"""A stub of an OpenAI-compatible engine that does as little as can be, so that the proxy is what is measured."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass
from typing import cast

import httptools

MODEL = "bench"
DONE = b"data: [DONE]\n\n"

_METRICS = b"""\
vllm:cache_config_info{block_size="16",num_gpu_blocks="1000000",engine="0"} 1.0
vllm:num_requests_running{engine="0",model_name="bench"} 0.0
vllm:num_requests_waiting{engine="0",model_name="bench"} 0.0
vllm:kv_cache_usage_perc{engine="0",model_name="bench"} 0.0
vllm:prefix_cache_queries_total{engine="0",model_name="bench"} 0.0
vllm:prefix_cache_hits_total{engine="0",model_name="bench"} 0.0
"""

_USAGE = {
    "prompt_tokens": 1000,
    "completion_tokens": 64,
    "total_tokens": 1064,
    "prompt_tokens_details": {"cached_tokens": 900},
}


@dataclass(frozen=True, slots=True)
class Replies:
    """What the engine answers, encoded once.

    Args:
        chunks: content chunks of a streamed answer.
        burst: chunks written at a time; each is an HTTP chunk of its own.
        reply_bytes: length of the text in an answer that is not streamed.
    """

    chunks: int = 256
    burst: int = 4
    reply_bytes: int = 512

    def whole(self) -> bytes:
        """Return the body of an answer that is not streamed."""
        message = {"role": "assistant", "content": "x" * self.reply_bytes}
        choice = {"index": 0, "message": message, "finish_reason": "stop", "logprobs": None}
        answer = {"id": "chatcmpl-bench", "object": "chat.completion", "created": 1, "model": MODEL}
        return json.dumps({**answer, "choices": [choice], "usage": _USAGE}).encode()

    def event(self) -> bytes:
        """Return one server-sent event of a streamed answer."""
        choice = {"index": 0, "delta": {"content": " token"}, "logprobs": None, "finish_reason": None}
        answer = {"id": "chatcmpl-0123456789abcdef0123456789abcdef", "object": "chat.completion.chunk"}
        return _event({**answer, "created": 1, "model": MODEL, "choices": [choice]})

    def usage_event(self) -> bytes:
        """Return the event that ends a streamed answer whose request asks for usage."""
        answer = {"id": "chatcmpl-0123456789abcdef0123456789abcdef", "object": "chat.completion.chunk"}
        return _event({**answer, "created": 1, "model": MODEL, "choices": [], "usage": _USAGE})


class StubEngine:
    """Answers on one port; all streams advance together, as those of a batch do."""

    def __init__(self, replies: Replies) -> None:
        whole = replies.whole()
        models = {"object": "list", "data": [{"id": MODEL, "object": "model", "max_model_len": 131072}]}
        self.answers = {
            b"/v1/models": _response(b"application/json", json.dumps(models).encode()),
            b"/metrics": _response(b"text/plain; version=0.0.4", _METRICS),
            b"/v1/chat/completions": _response(b"application/json", whole),
        }
        self.default = _response(b"application/json", b"{}")
        self.stream_head = (
            b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\ntransfer-encoding: chunked\r\n\r\n"
        )
        self.burst = _chunk(replies.event()) * replies.burst
        self.bursts = replies.chunks // replies.burst
        self.rest = _chunk(replies.event()) * (replies.chunks % replies.burst)
        self.usage = _chunk(replies.usage_event())
        self.end = _chunk(DONE) + b"0\r\n\r\n"
        self._streams: dict[_Connection, int] = {}
        self._decoding = False
        self._server: asyncio.Server | None = None

    async def start(self) -> int:
        """Listen on a free port of the loopback interface and return it."""
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: _Connection(self), "127.0.0.1", 0, backlog=1024)
        port: int = self._server.sockets[0].getsockname()[1]
        return port

    def stop(self) -> None:
        """Stop listening."""
        if self._server is not None:
            self._server.close()
        self._streams.clear()

    def stream(self, connection: _Connection) -> None:
        """Begin to stream an answer."""
        self._streams[connection] = self.bursts
        if not self._decoding:
            self._decoding = True
            asyncio.get_running_loop().call_soon(self._step)

    def drop(self, connection: _Connection) -> None:
        """Stop streaming to a connection that is gone."""
        self._streams.pop(connection, None)

    def _step(self) -> None:
        """Give each stream its next chunks."""
        progress = False
        for connection, left in list(self._streams.items()):
            if connection.paused:
                continue
            progress = True
            if left:
                connection.transport.write(self.burst)
                self._streams[connection] = left - 1
            else:
                del self._streams[connection]
                connection.transport.write(self.rest + (self.usage if connection.usage else b"") + self.end)
        loop = asyncio.get_running_loop()
        self._decoding = bool(self._streams)
        if self._decoding and progress:
            loop.call_soon(self._step)
        elif self._decoding:
            loop.call_later(0.001, self._step)


class _Connection(asyncio.Protocol):
    transport: asyncio.Transport

    def __init__(self, engine: StubEngine) -> None:
        self._engine = engine
        self._url = b""
        self._body: list[bytes] = []
        self.on_body = self._body.append
        self._parser = httptools.HttpRequestParser(self)
        self.paused = False
        self.usage = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - why it ended changes nothing
        self._engine.drop(self)

    def pause_writing(self) -> None:
        self.paused = True

    def resume_writing(self) -> None:
        self.paused = False

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def on_url(self, url: bytes) -> None:
        self._url += url

    def on_message_complete(self) -> None:
        body = b"".join(self._body)
        self._body.clear()
        url, self._url = self._url, b""
        if b'"stream":true' in body or b'"stream": true' in body:
            self.usage = b"include_usage" in body
            self.transport.write(self._engine.stream_head)
            self._engine.stream(self)
        else:
            self.transport.write(self._engine.answers.get(url, self._engine.default))


def _event(payload: object) -> bytes:
    return b"data: " + json.dumps(payload, separators=(",", ":")).encode() + b"\n\n"


def _chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


def _response(content_type: bytes, body: bytes) -> bytes:
    head = b"HTTP/1.1 200 OK\r\ncontent-type: %b\r\ncontent-length: %d\r\n\r\n" % (content_type, len(body))
    return head + body
