"""One connection to one rank's KV events: subscribe, notice gaps, fill them by replay, notice the end."""

from __future__ import annotations

import asyncio
import errno
import logging
import struct
import time
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import zmq
import zmq.asyncio

from thunderagent_core.engines.kv_messages import KvBatch, KvDecoder, KvMessageError, Resync, split_frames

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator, Sequence

_LOG = logging.getLogger(__name__)
_WILDCARDS = frozenset({"*", "0.0.0.0", "[::]", "::"})
_NOT_OURS = frozenset({errno.EADDRINUSE, errno.EADDRNOTAVAIL, errno.ENODEV})
_HEARTBEAT_MS = 5_000
_QUEUED_MESSAGES = 10_000


@dataclass(frozen=True, slots=True)
class KvAddress:
    """Where one data-parallel rank publishes its KV events.

    Args:
        endpoint: ZeroMQ address as the engine was given it.
        topic: what to subscribe to; empty for everything.
        replay: ZeroMQ address where past batches can be asked for, or None.
    """

    endpoint: str
    topic: str = ""
    replay: str | None = None


class ConnectionEndedError(Exception):
    """The engine has gone, or begun anew: where it publishes has to be found out again."""


class KvSubscription:
    """Follows one rank until the connection ends.

    Args:
        context: makes the sockets.
        address: where the rank publishes.
        host: the engine's host, for addresses that say "any".
        rank: the data-parallel rank.
        timeout_s: longest wait for the connection, and for each message of a replay.
        deliver: takes the batches; it may block, and then ZeroMQ's queues fill up, and then batches get lost,
            which is noticed.
    """

    def __init__(
        self,
        context: zmq.asyncio.Context,
        address: KvAddress,
        *,
        host: str,
        rank: int,
        timeout_s: float,
        deliver: Callable[[KvBatch], Awaitable[None]],
    ) -> None:
        self._context = context
        self._address = address
        self._host = host
        self._rank = rank
        self._timeout_s = timeout_s
        self._deliver = deliver
        self._decoder = KvDecoder()
        self._heard = -1
        """Newest batch that came on the subscription itself."""
        self._given: int | None = None
        """Newest batch that was delivered; None before the first."""

    async def run(self) -> None:
        """Deliver batches for ever. Raises ConnectionEndedError when the engine goes or does not answer."""
        with self._socket(zmq.SUB) as socket, self._monitor(socket) as monitor:
            self._attach(socket)
            await self._wait_for_connection(monitor)
            await self._resync("connected")
            await self._replay_until(None)
            poller = zmq.asyncio.Poller()
            poller.register(socket, zmq.POLLIN)
            poller.register(monitor, zmq.POLLIN)
            while True:
                ready = dict(await poller.poll())
                if socket in ready:
                    await self._take(await socket.recv_multipart())
                elif await _next_event(monitor) == zmq.EVENT_DISCONNECTED:
                    raise ConnectionEndedError

    def _attach(self, socket: zmq.asyncio.Socket) -> None:
        """Bind where the engine connects, else connect.

        An engine that was given "any" address binds it. One that was given a fixed address connects to it, but
        one that chose a port itself reports a fixed address too. Binding tells them apart: it fails where the
        engine has bound, or where the address is not this machine's.
        """
        socket.set(zmq.RCVHWM, _QUEUED_MESSAGES)
        socket.set(zmq.HEARTBEAT_IVL, _HEARTBEAT_MS)
        socket.subscribe(self._address.topic)
        endpoint, fixed = reachable(self._address.endpoint, self._host)
        if fixed:
            try:
                socket.bind(endpoint)
            except zmq.ZMQError as error:
                if error.errno not in _NOT_OURS:
                    raise
            else:
                return
        socket.connect(endpoint)

    async def _wait_for_connection(self, monitor: zmq.asyncio.Socket) -> None:
        try:
            async with asyncio.timeout(self._timeout_s):
                while await _next_event(monitor) != zmq.EVENT_HANDSHAKE_SUCCEEDED:
                    pass
        except TimeoutError:
            raise ConnectionEndedError from None

    async def _take(self, frames: Sequence[bytes]) -> None:
        """Deliver a batch from the subscription, and before it those that are missing."""
        try:
            sequence, _ = split_frames(frames)
        except KvMessageError as error:
            _LOG.warning("KV events of %s: %s", self._address.endpoint, error)
            return
        if sequence <= self._heard:
            raise ConnectionEndedError  # the engine counts from zero again
        self._heard = sequence
        if self._given is not None and sequence <= self._given:
            return  # a replay had it already
        if self._given is not None and sequence > self._given + 1:
            await self._replay_until(sequence)
        await self._give(sequence, frames)

    async def _give(self, sequence: int, frames: Sequence[bytes]) -> None:
        """Deliver one batch; say so first where others before it are lost for good."""
        expected = sequence if self._given is None else self._given + 1
        if sequence > expected:
            await self._resync(f"batches {expected} to {sequence - 1} are lost")
        self._given = sequence
        try:
            batch = self._decoder.decode(frames, self._rank)
        except KvMessageError as error:
            _LOG.warning("KV events of %s: %s", self._address.endpoint, error)
            await self._resync(str(error))
        else:
            await self._deliver(batch)

    async def _resync(self, reason: str) -> None:
        await self._deliver(KvBatch(self._rank, -1, time.time(), [Resync(reason)]))

    async def _replay_until(self, end: int | None) -> None:
        """Deliver the past batches after the newest delivered one, up to but not ``end`` (None: all there are)."""
        if self._address.replay is None:
            return
        endpoint, _ = reachable(self._address.replay, self._host)
        with self._socket(zmq.DEALER) as socket:
            socket.set(zmq.RCVHWM, 0)
            socket.connect(endpoint)
            while await self._replay_once(socket, end):
                pass

    async def _replay_once(self, socket: zmq.asyncio.Socket, end: int | None) -> bool:
        """Ask once; return whether it is worth asking again, because the answer had a hole after its first batch.

        The engine sends all at once and ZeroMQ drops what exceeds its queue, the end marker included.
        """
        start = 0 if self._given is None else self._given + 1
        await socket.send_multipart([b"", start.to_bytes(8, "big")])
        progress = False
        while end is None or self._given is None or self._given + 1 < end:
            try:
                async with asyncio.timeout(self._timeout_s):
                    frames = (await socket.recv_multipart())[1:]
            except TimeoutError:
                return progress
            sequence, _ = split_frames(frames)
            if sequence < 0 or (end is not None and sequence >= end):
                return False
            if progress and self._given is not None and sequence > self._given + 1:
                return True
            if self._given is None or sequence > self._given:
                await self._give(sequence, frames)
                progress = True
        return False

    @contextmanager
    def _socket(self, kind: int) -> Iterator[zmq.asyncio.Socket]:
        socket = self._context.socket(kind)
        try:
            yield socket
        finally:
            socket.close(linger=0)

    @contextmanager
    def _monitor(self, socket: zmq.asyncio.Socket) -> Iterator[zmq.asyncio.Socket]:
        monitor = socket.get_monitor_socket(zmq.EVENT_HANDSHAKE_SUCCEEDED | zmq.EVENT_DISCONNECTED)
        try:
            yield monitor
        finally:
            socket.disable_monitor()
            monitor.close(linger=0)


def reachable(endpoint: str, host: str) -> tuple[str, bool]:
    """Return an engine's address as seen from here, and whether it was fixed rather than "any"."""
    parts = urlsplit(endpoint)
    name, _, port = parts.netloc.rpartition(":")
    if parts.scheme != "tcp":
        return endpoint, False
    if name in _WILDCARDS:
        return f"tcp://{host}:{port}", False
    return endpoint, True


async def _next_event(monitor: zmq.asyncio.Socket) -> int:
    frames = await monitor.recv_multipart()
    (event,) = struct.unpack_from("=H", frames[0])
    return int(event)
