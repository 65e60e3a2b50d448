"""KV events over ZeroMQ, with the sockets, frames and replay of vLLM 0.32 (``vllm/distributed/kv_events.py``).

A PUB socket sends (topic, 8-byte big-endian sequence number, msgpack batch). A ROUTER socket answers a request of
(empty, first sequence number wanted) with one message (empty, topic, sequence number, batch) for each batch that is
still kept, and ends with (empty, empty, -1, empty); a client must use DEALER, because REQ takes one reply only.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from typing import TYPE_CHECKING, Any, Final

import msgspec
import zmq
import zmq.asyncio

from thunderagent_core.engines.simulated.events import KvEvent, KvEventBatch

if TYPE_CHECKING:
    from thunderagent_core.engines.simulated.settings import EngineSettings

END_OF_REPLAY: Final = (-1).to_bytes(8, "big", signed=True)
HIGH_WATER_MARK: Final = 100_000
RANK: Final = 0
_REPLAY_FRAMES: Final = 3

_LOG: Final = logging.getLogger(__name__)


class KvEventPublisher:
    """Publishes KV events, if the settings give an address. ``start`` raises zmq.ZMQError where it is in use."""

    def __init__(self, settings: EngineSettings) -> None:
        self._settings = settings
        self._topic = settings.kv_events_topic.encode()
        self._sequence = 0
        self._kept: deque[tuple[int, bytes]] = deque(maxlen=settings.kv_events_buffer_steps)
        self._endpoint = settings.kv_events_endpoint
        self._replay_endpoint = settings.kv_events_replay_endpoint
        self._context: zmq.Context[zmq.Socket[bytes]] | None = None
        self._events: zmq.Socket[bytes] | None = None
        self._replay: zmq.asyncio.Socket | None = None
        self._replaying: asyncio.Task[None] | None = None

    @property
    def enabled(self) -> bool:
        """Whether events are published."""
        return self._endpoint is not None

    def start(self) -> None:
        """Open the sockets: as in vLLM a wildcard address is bound, any other is connected to."""
        if self._endpoint is None:
            return
        self._context = zmq.Context()
        self._events = self._context.socket(zmq.PUB)
        self._events.set_hwm(HIGH_WATER_MARK)
        if _is_bound(self._endpoint):
            self._endpoint = _bind(self._events, self._endpoint)
        else:
            self._events.connect(self._endpoint)
        if self._replay_endpoint is not None:
            self._replay = zmq.asyncio.Context.shadow(self._context).socket(zmq.ROUTER)
            self._replay_endpoint = _bind(self._replay, self._replay_endpoint)
            self._replaying = asyncio.get_running_loop().create_task(self._serve_replay(self._replay))

    def publish(self, events: list[KvEvent]) -> None:
        """Send one batch and keep it for replay; without an address nothing happens."""
        if self._events is None:
            return
        batch = msgspec.msgpack.encode(KvEventBatch(time.time(), events, RANK))
        self._events.send_multipart((self._topic, self._sequence.to_bytes(8, "big"), batch))
        self._kept.append((self._sequence, batch))
        self._sequence += 1

    def sources(self) -> dict[str, dict[str, Any]]:
        """Return what ``GET /kv_event_sources`` answers: where each data-parallel rank publishes."""
        if not self.enabled:
            return {}
        source = {
            "enable_kv_cache_events": True,
            "publisher": "zmq",
            "endpoint": self._endpoint,
            "replay_endpoint": self._replay_endpoint,
            "buffer_steps": self._settings.kv_events_buffer_steps,
            "hwm": HIGH_WATER_MARK,
            "max_queue_size": HIGH_WATER_MARK,
            "topic": self._settings.kv_events_topic,
        }
        return {str(RANK): source}

    async def aclose(self) -> None:
        """Close the sockets; what has not been sent is dropped, as when vLLM stops."""
        if self._replaying is not None:
            self._replaying.cancel()
            await asyncio.gather(self._replaying, return_exceptions=True)
        for socket in (self._events, self._replay):
            if socket is not None:
                socket.close(linger=0)
        if self._context is not None:
            self._context.term()
        self._events = self._replay = self._context = None

    async def _serve_replay(self, socket: zmq.asyncio.Socket) -> None:
        while True:
            frames = await socket.recv_multipart()
            if len(frames) != _REPLAY_FRAMES:
                _LOG.warning("replay request with %d frames ignored", len(frames))
                continue
            client, _, wanted = frames
            first = int.from_bytes(wanted, "big")
            for sequence, batch in list(self._kept):
                if sequence >= first:
                    number = sequence.to_bytes(8, "big")
                    await socket.send_multipart((client, b"", self._topic, number, batch))
            await socket.send_multipart((client, b"", b"", END_OF_REPLAY, b""))


def _is_bound(endpoint: str) -> bool:
    return "*" in endpoint or "::" in endpoint or endpoint.startswith(("ipc://", "inproc://"))


def _bind(socket: zmq.Socket[Any], endpoint: str) -> str:
    """Bind, and return the address to tell others. Port 0 lets the system choose one, on this machine only."""
    if endpoint.endswith(":0"):
        socket.bind(endpoint.replace("*", "127.0.0.1"))
        return socket.getsockopt_string(zmq.LAST_ENDPOINT)
    socket.bind(endpoint)
    return endpoint
