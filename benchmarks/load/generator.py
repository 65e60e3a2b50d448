"""Clients that ask again as soon as they are answered, and check every answer."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import cast

import httptools

from benchmarks.load.engine import DONE, MODEL, Replies


class BadAnswerError(Exception):
    """A proxy answered something other than what the engine sent."""


class StarvedError(BadAnswerError):
    """Some connections got nothing at all: the proxy has lost their requests, or had no processor."""


@dataclass(slots=True)
class Expected:
    """What each answer must be: status 200 and, streamed, so many events; else a body of that length."""

    replies: Replies
    stream: bool
    length: int | None = None  # of whole answers: a proxy may encode JSON anew, but always in the same way

    def check(self, status: int, body: bytes) -> None:
        """Raise BadAnswerError unless the answer is whole."""
        if status != 200:
            raise BadAnswerError(f"status {status}: {body[:300]!r}")
        if self.stream:
            events = body.count(b"\n\n")
            if events != self.replies.chunks + 1 or not body.endswith(DONE):
                raise BadAnswerError(f"{events} events of {self.replies.chunks + 1}, ending {body[-80:]!r}")
        elif len(body) != self.length:
            if json.loads(body)["choices"] != json.loads(self.replies.whole())["choices"]:
                raise BadAnswerError(f"another answer: {body[:300]!r}")
            self.length = len(body)


@dataclass(slots=True)
class Tally:
    """What the clients of one run have received so far."""

    answers: int = 0
    events: int = 0
    latencies: list[float] = field(default_factory=list)  # seconds, one for each answer
    error: Exception | None = None


def request_bytes(port: int, number: int, prompt_bytes: int, *, stream: bool) -> bytes:
    """Return a chat request whose program and prompt are those of client ``number``."""
    prompt = f"client {number}: " + "the quick brown fox jumps over the lazy dog " * (prompt_bytes // 44 + 1)
    messages = [
        {"role": "system", "content": "You are an agent."},
        {"role": "user", "content": prompt[:prompt_bytes]},
    ]
    chat = {"model": MODEL, "messages": messages, "max_tokens": 256, "temperature": 0.7, "stream": stream}
    body = json.dumps(chat).encode()
    head = (
        f"POST /v1/chat/completions HTTP/1.1\r\nhost: 127.0.0.1:{port}\r\nuser-agent: bench\r\naccept: */*\r\n"
        f"authorization: Bearer bench\r\nx-program-id: bench-{number}\r\ncontent-type: application/json\r\n"
        f"content-length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


class _Client(asyncio.Protocol):
    def __init__(self, request: bytes, expected: Expected, tally: Tally, end: asyncio.Event) -> None:
        self._request = request
        self._expected = expected
        self._tally = tally
        self._end = end
        self._body: list[bytes] = []
        self._seen = 0
        self.on_body = self._body.append
        self._parser = httptools.HttpResponseParser(self)
        self._sent = 0.0
        self.progressed = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._ask()

    def connection_lost(self, exc: Exception | None) -> None:
        if not self._end.is_set():
            self._fail(exc or BadAnswerError("the proxy closed the connection"))

    def data_received(self, data: bytes) -> None:
        self.progressed = True
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            self._fail(error.__context__ or error)
        if self._expected.stream and self._body:
            fresh = b"".join(self._body[self._seen :])
            self._seen = len(self._body)
            self._tally.events += fresh.count(b"\n") // 2

    def on_message_complete(self) -> None:
        body = b"".join(self._body)
        if self._expected.stream:  # those of the last read have not been counted yet
            self._tally.events += b"".join(self._body[self._seen :]).count(b"\n") // 2
        self._expected.check(self._parser.get_status_code(), body)
        self._body.clear()
        self._seen = 0
        self._tally.answers += 1
        self._tally.latencies.append(time.perf_counter() - self._sent)
        if not self._end.is_set():
            self._ask()

    def _ask(self) -> None:
        self._sent = time.perf_counter()
        self._transport.write(self._request)

    def _fail(self, error: BaseException) -> None:
        if self._tally.error is None and isinstance(error, Exception):
            self._tally.error = error
        self._end.set()

    def close(self) -> None:
        """Close the connection."""
        self._transport.abort()


@dataclass(frozen=True, slots=True)
class Load:
    """One run: so many connections for so many seconds, after a warm-up that does not count."""

    connections: int
    seconds: float
    warmup_s: float
    prompt_bytes: int
    stream: bool


@dataclass(frozen=True, slots=True)
class Measured:
    """What one run showed.

    Args:
        answers_per_s: complete answers.
        events_per_s: server-sent events, where answers are streamed.
        latencies: of each answer, in seconds.
        cpu_s: processor time that the proxy used meanwhile, in seconds.
        others: processor time on both cores that went to other processes, over the time measured.
        elapsed_s: how long it was measured, in seconds.
    """

    answers_per_s: float
    events_per_s: float
    latencies: list[float]
    cpu_s: float
    others: float
    elapsed_s: float


Probe = Callable[[], tuple[float, float]]
"""Returns processor time in seconds: what the proxy has used, and what others have on the cores measured with."""


async def run_load(port: int, load: Load, replies: Replies, probe: Probe) -> Measured:
    """Drive a server on the loopback interface. Raises BadAnswerError, or what broke a connection."""
    loop = asyncio.get_running_loop()
    tally, end = Tally(), asyncio.Event()
    expected = Expected(replies, load.stream)
    clients = []
    try:
        for number in range(load.connections):
            request = request_bytes(port, number, load.prompt_bytes, stream=load.stream)
            make = partial(_Client, request, expected, tally, end)
            _, client = await loop.create_connection(make, "127.0.0.1", port)
            clients.append(client)
        await _wait(end, load.warmup_s)
        answers, events, began, used = tally.answers, tally.events, time.perf_counter(), probe()
        tally.latencies.clear()
        for client in clients:
            client.progressed = False
        await _wait(end, load.seconds)
        elapsed = time.perf_counter() - began
        cpu_s, others_s = (now - before for now, before in zip(probe(), used, strict=True))
        answers, events = tally.answers - answers, tally.events - events
    finally:
        end.set()
        for client in clients:
            client.close()
    if tally.error is not None:
        raise tally.error
    idle = sum(not client.progressed for client in clients)
    if idle:
        raise StarvedError(f"{idle} of {load.connections} connections got nothing in {load.seconds:g} s")
    return Measured(answers / elapsed, events / elapsed, tally.latencies, cpu_s, max(0.0, others_s) / elapsed, elapsed)


async def _wait(end: asyncio.Event, seconds: float) -> None:
    try:
        async with asyncio.timeout(seconds):
            await end.wait()
    except TimeoutError:
        return
