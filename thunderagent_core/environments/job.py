"""One command on its way through a channel: what has come of its output, and how far it is."""

from __future__ import annotations

import asyncio
import math
from collections import deque
from typing import Final

from thunderagent_core.environments.base import Stream
from thunderagent_core.environments.commands import ExecResult
from thunderagent_core.environments.markers import Mark, Scanner, new_nonce
from thunderagent_core.environments.output import HeadTail, Output

_PIECE_BYTES: Final = 65536
"""Pieces are joined up to about this size while nobody takes them."""

_BOTH: Final = 2


class Job:
    """What its channel feeds and its caller waits for.

    Args:
        limit_bytes: output kept of each stream.
        backlog_bytes: output waiting for the caller beyond which the channel, and so the command, has to wait.
    """

    def __init__(self, limit_bytes: int, backlog_bytes: float = math.inf) -> None:
        self.start, self.end = new_nonce(), new_nonce()
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        """Set when both streams have ended, or to the exception for which they will not."""
        self.reusable: bool | None = None
        """Whether the channel may be used again: nobody holds its outputs. None: not known yet."""
        self.refusal: str | None = None
        """``workdir`` or ``env`` where the command could not even be started."""
        self.timed_out = False
        self._exit_code = 0
        self._backlog = backlog_bytes
        self._waiting = 0
        self._pieces: deque[tuple[Stream, bytearray]] = deque()
        self._news = asyncio.Event()
        self._scanners = {stream: Scanner(self.start, self.end) for stream in Stream}
        self._trims = {stream: HeadTail(limit_bytes) for stream in Stream}
        self._marks = dict.fromkeys(Stream, 0)
        self._began = 0.0
        self._duration_s = 0.0

    # The channel calls these.

    def begin(self) -> None:
        """Start the clock: a shell is about to get it."""
        self._began = asyncio.get_running_loop().time()

    @property
    def settled(self) -> bool:
        """Whether the channel has no more to say of it."""
        return self.reusable is not None

    @property
    def full(self) -> bool:
        """Whether the caller has to take something first."""
        return self._waiting > self._backlog

    def feed(self, stream: Stream, data: bytes) -> None:
        """Take what the channel's shell wrote."""
        for found in self._scanners[stream].feed(data):
            if isinstance(found, Mark):
                self._mark(stream, found.word)
            elif self._marks[stream] == 1:  # before it: of an earlier command; after it: of a process left behind
                self._add(stream, self._trims[stream].feed(found))

    def fail(self, error: Exception) -> None:
        """Give up: nothing more will come."""
        if not self.done.done():
            self.done.set_exception(error)
            self.done.exception()  # it may be that nobody waits any more
        self.release()

    def release(self) -> None:
        """Let the channel go on without regard to the caller, who has gone or whose command is being ended."""
        self._backlog = math.inf
        self._news.set()

    async def taken(self) -> None:
        """Wait until the caller has taken enough, or is of no account any more."""
        while self.full:
            self._news.clear()
            await self._news.wait()

    def _mark(self, stream: Stream, word: str) -> None:
        seen = self._marks[stream] = self._marks[stream] + 1
        if seen == 1:
            return
        if word in {"clean", "held"}:
            self.reusable = word == "clean"
        elif seen == _BOTH:
            self._stream_ended(word)

    def _stream_ended(self, word: str) -> None:
        if word.isdigit():
            self._exit_code = int(word)
        elif word:
            self.refusal = word
        if min(self._marks.values()) < _BOTH:
            return
        self._duration_s = asyncio.get_running_loop().time() - self._began
        for each in Stream:
            self._add(each, self._trims[each].finish())
        if not self.done.done():
            self.done.set_result(None)
        self._news.set()

    def _add(self, stream: Stream, data: bytes) -> None:
        if not data:
            return
        last = self._pieces[-1] if self._pieces else None
        if last is not None and last[0] is stream and len(last[1]) < _PIECE_BYTES:
            last[1].extend(data)
        else:
            self._pieces.append((stream, bytearray(data)))
        self._waiting += len(data)
        self._news.set()

    # The caller calls these.

    async def next_output(self) -> Output | None:
        """Return the next piece of output, None at the end. Raises what the job failed with."""
        while not self._pieces:
            if self.done.done():
                self.done.result()
                return None
            self._news.clear()
            await self._news.wait()
        stream, data = self._pieces.popleft()
        self._waiting -= len(data)
        self._news.set()
        return Output(stream, bytes(data))

    def result(self) -> ExecResult:
        """Return how it ended, with whatever output has not been taken yet."""
        rest = {stream: b"".join(data for of, data in self._pieces if of is stream) for stream in Stream}
        return ExecResult(
            exit_code=self._exit_code,
            stdout=rest[Stream.STDOUT],
            stderr=rest[Stream.STDERR],
            dropped_stdout=self._trims[Stream.STDOUT].dropped,
            dropped_stderr=self._trims[Stream.STDERR].dropped,
            timed_out=self.timed_out,
            duration_s=self._duration_s,
        )
