"""The channels of one environment: opened when needed, used again, closed after a while without work."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from thunderagent_core.environments.base import ProviderError
from thunderagent_core.environments.commands import ExecError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine

    from thunderagent_core.environments.channel import Channel

MAX_RETIRED: Final = 8
"""Channels kept, and their output thrown away, because a process left behind by a command still writes to them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolLimits:
    """How many channels, and how long.

    Args:
        max_channels: commands of one environment that run at the same time.
        max_waiting: commands that may wait for a channel.
        wait_s: longest wait for a channel, the time to open one included, in seconds.
        idle_s: how long a channel without work stays open, in seconds.
    """

    max_channels: int = 4
    max_waiting: int = 256
    wait_s: float = 60.0
    idle_s: float = 300.0


class ChannelPool:
    """Hands each channel to one command at a time.

    Args:
        opener: opens a channel that reports changes to the given callback.
        limits: bounds.
    """

    def __init__(self, opener: Callable[[Callable[[Channel], None]], Awaitable[Channel]], limits: PoolLimits) -> None:
        self._opener = opener
        self._limits = limits
        self._live: set[Channel] = set()
        self._opening = 0
        self._idle: list[tuple[Channel, float]] = []
        self._retired: deque[Channel] = deque()
        self._waiters: deque[asyncio.Future[Channel]] = deque()
        self._tasks: set[asyncio.Task[None]] = set()
        self._pruning: asyncio.TimerHandle | None = None
        self._closed = False

    async def acquire(self) -> Channel:
        """Return a channel for one command; it comes back of itself when that has settled.

        Raises:
            ExecError: ``busy``: none became free in time; ``closed``; ``no_shell``.
            ProviderError: none could be opened.
        """
        if self._closed:
            raise ExecError("the environment takes no more commands", code="closed")
        if (channel := self._pop_idle()) is not None:
            return channel
        if len(self._waiters) >= self._limits.max_waiting:
            raise ExecError(f"{len(self._waiters)} commands wait for this environment already", code="busy")
        waiter: asyncio.Future[Channel] = asyncio.get_running_loop().create_future()
        self._waiters.append(waiter)
        self._grow()
        return await self._wait(waiter)

    def discard(self, channel: Channel) -> None:
        """Close a channel for good, whatever it does; in the background."""
        self._live.discard(channel)
        self._background(channel.aclose())
        self._grow()

    def stop(self) -> None:
        """Refuse further commands, and those that wait."""
        self._closed = True
        if self._pruning is not None:
            self._pruning.cancel()
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_exception(ExecError("the environment takes no more commands", code="closed"))

    async def aclose(self) -> None:
        """Close all channels."""
        self.stop()
        channels = [*self._live, *self._retired]
        self._live.clear()
        self._retired.clear()
        self._idle.clear()
        for channel in channels:
            self._background(channel.aclose())
        while self._tasks:
            await asyncio.wait(self._tasks)

    async def _wait(self, waiter: asyncio.Future[Channel]) -> Channel:
        try:
            async with asyncio.timeout(self._limits.wait_s):
                return await waiter
        except TimeoutError:
            self._give_back(waiter)
            raise ExecError(f"no channel was free within {self._limits.wait_s:g} s", code="busy") from None
        except asyncio.CancelledError:
            self._give_back(waiter)
            raise
        finally:
            with contextlib.suppress(ValueError):
                self._waiters.remove(waiter)

    def _give_back(self, waiter: asyncio.Future[Channel]) -> None:
        if waiter.done() and not waiter.cancelled() and waiter.exception() is None:
            self._offer(waiter.result())

    def _pop_idle(self) -> Channel | None:
        while self._idle:
            channel, _ = self._idle.pop()
            if channel.ended:
                self.discard(channel)
            elif channel.held:
                self._retire(channel)
            else:
                return channel
        return None

    def _changed(self, channel: Channel) -> None:
        """Hear that a channel has settled or ended."""
        if channel in self._retired and channel.ended:
            self._retired.remove(channel)
            self.discard(channel)
        if channel not in self._live:
            return  # retired or given up
        if channel.ended:
            self.discard(channel)
        elif channel.held or channel.single:
            self._retire(channel)
        else:
            self._offer(channel)

    def _offer(self, channel: Channel) -> None:
        while self._waiters:
            waiter = self._waiters.popleft()
            if not waiter.done():
                waiter.set_result(channel)
                return
        self._idle.append((channel, asyncio.get_running_loop().time()))
        self._schedule_pruning()

    def _retire(self, channel: Channel) -> None:
        self._live.discard(channel)
        self._retired.append(channel)
        if len(self._retired) > MAX_RETIRED:
            self.discard(self._retired.popleft())
        self._grow()

    def _grow(self) -> None:
        """Open as many channels as there are commands waiting for which none is about to be free."""
        if self._closed or not self._waiters:
            return
        coming = self._opening + sum(channel.settling for channel in self._live)
        wanted = sum(not waiter.done() for waiter in self._waiters) - coming
        room = self._limits.max_channels - len(self._live) - self._opening
        for _ in range(min(wanted, room)):
            self._opening += 1
            self._background(self._open())

    async def _open(self) -> None:
        try:
            channel = await self._recover() or await self._opener(self._changed)
        except (ProviderError, ExecError) as error:
            self._opening -= 1
            self._refuse(error)
            self._grow()
            return
        except BaseException:
            self._opening -= 1
            raise
        self._opening -= 1
        if self._closed or channel.ended:
            self.discard(channel)
        else:
            self._live.add(channel)
            self._offer(channel)

    async def _recover(self) -> Channel | None:
        """Return a retired channel to which nobody writes any more."""
        for _ in range(len(self._retired)):
            if not self._retired:
                break
            channel = self._retired.popleft()
            if not await channel.still_held():
                return channel
            if channel.ended or self._closed:
                self.discard(channel)
            else:
                self._retired.append(channel)
        return None

    def _refuse(self, error: Exception) -> None:
        while self._waiters:
            waiter = self._waiters.popleft()
            if not waiter.done():
                waiter.set_exception(error)
                return

    def _background(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _schedule_pruning(self) -> None:
        if self._pruning is None and self._idle and not self._closed:
            loop = asyncio.get_running_loop()
            self._pruning = loop.call_at(self._idle[0][1] + self._limits.idle_s, self._prune)

    def _prune(self) -> None:
        self._pruning = None
        before = asyncio.get_running_loop().time() - self._limits.idle_s
        expired = [channel for channel, since in self._idle if since <= before]
        self._idle = [(channel, since) for channel, since in self._idle if since > before]
        for channel in expired:
            self.discard(channel)
        self._schedule_pruning()
