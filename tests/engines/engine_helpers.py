"""Engines that are only a table of answers, and a publisher that speaks vLLM's KV event protocol."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections import deque
from pathlib import Path
from typing import Any

import httpx
import msgspec
import zmq
import zmq.asyncio

RECORDED = Path(__file__).parent.parent / "recorded"
URL = "http://engine.test:8000"
VLLM = RECORDED / "vllm-0.32"
VLLM_DP2 = RECORDED / "vllm-0.32-dp2"
SGLANG = RECORDED / "sglang"


class Answers(httpx.AsyncBaseTransport):
    """Serves pages from a table that tests may change; a page may be bytes, text, an object, an exception."""

    def __init__(self, **pages: Any) -> None:
        self.pages: dict[str, Any] = {f"/{path.replace('__', '/')}": page for path, page in pages.items()}
        self.asked: list[httpx.Request] = []
        self.was_asked = asyncio.Event()

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        self.asked.append(request)
        self.was_asked.set()
        page = self.pages.get(request.url.path, 404)
        if isinstance(page, Exception):
            raise page
        if isinstance(page, int):
            return httpx.Response(page, text="no such page")
        if isinstance(page, dict | list):
            return httpx.Response(200, json=page)
        return httpx.Response(200, content=page)

    def paths(self) -> list[str]:
        return [request.url.path for request in self.asked]


def vllm_answers(directory: Path = VLLM) -> Answers:
    return Answers(
        health=b"",
        metrics=(directory / "metrics.txt").read_bytes(),
        v1__models=(directory / "models.json").read_bytes(),
    )


def sglang_answers(metrics: str) -> Answers:
    return Answers(
        metrics=(SGLANG / metrics).read_bytes(),
        server_info=(SGLANG / "server_info.json").read_bytes(),
        v1__models={"object": "list", "data": [{"id": "qwen", "max_model_len": 32768}]},
    )


def recorded_batches() -> list[dict[str, Any]]:
    batches: list[dict[str, Any]] = json.loads((VLLM / "kv_events.json").read_text())
    return batches


def stored(*hashes: int, session: str | None = None) -> dict[str, Any]:
    """A BlockStored as vLLM sends it, with a field that we do not know."""
    return {
        "type": "BlockStored",
        "block_hashes": list(hashes),
        "parent_block_hash": None,
        "token_ids": list(range(4 * len(hashes))),
        "block_size": 4,
        "lora_id": None,
        "medium": "GPU",
        "lora_name": None,
        "session_id": session,
        "a_field_of_the_future": {"x": 1},
    }


class Publisher:
    """One rank of an engine: a publishing socket that binds or connects, and a replay socket.

    ``XPUB`` in place of ``PUB`` makes the subscription visible, so that no test has to wait for time to pass.
    """

    def __init__(
        self,
        *,
        endpoint: str = "tcp://127.0.0.1:0",
        bind: bool = True,
        replay: str | None = "tcp://127.0.0.1:0",
        keep: int = 100,
        rank: int = 0,
    ) -> None:
        self.rank = rank
        self.sequence = 0
        self.buffer: deque[tuple[int, bytes]] = deque(maxlen=keep)
        self._context = zmq.asyncio.Context()
        self._socket = self._context.socket(zmq.XPUB)
        (self._socket.bind if bind else self._socket.connect)(endpoint)
        self.endpoint = self._socket.get_string(zmq.LAST_ENDPOINT) if bind else endpoint
        self.replay_endpoint = None
        self._service: asyncio.Task[None] | None = None
        if replay:
            router = self._context.socket(zmq.ROUTER)
            router.bind(replay)
            self.replay_endpoint = router.get_string(zmq.LAST_ENDPOINT)
            self._service = asyncio.create_task(self._serve(router))

    async def subscribed(self) -> None:
        """Wait until a subscriber has reached us."""
        assert (await self._socket.recv()).startswith(b"\x01")

    async def publish(self, *events: Any, lost: bool = False) -> None:
        """Publish one batch; where it is ``lost`` it can only be replayed."""
        payload = msgspec.msgpack.encode([float(self.sequence), list(events), self.rank])
        self.buffer.append((self.sequence, payload))
        if not lost:
            await self._socket.send_multipart([b"kv", self.sequence.to_bytes(8, "big"), payload])
        self.sequence += 1

    async def send_raw(self, *frames: bytes) -> None:
        await self._socket.send_multipart(frames)

    def source(self) -> dict[str, Any]:
        """Our entry in the answer to ``GET /kv_event_sources``."""
        return {
            "enable_kv_cache_events": True,
            "publisher": "zmq",
            "endpoint": self.endpoint,
            "replay_endpoint": self.replay_endpoint,
            "topic": "kv",
        }

    async def close(self) -> None:
        if self._service is not None:
            self._service.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._service
        self._context.destroy(linger=0)

    async def _serve(self, router: zmq.asyncio.Socket) -> None:
        while True:
            client, _, start = await router.recv_multipart()
            for sequence, payload in list(self.buffer):
                if sequence >= int.from_bytes(start, "big"):
                    await router.send_multipart([client, b"", b"kv", sequence.to_bytes(8, "big"), payload])
            await router.send_multipart([client, b"", b"", (-1).to_bytes(8, "big", signed=True), b""])
