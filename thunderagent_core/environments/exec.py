"""Runs commands in one environment over channels that stay open, with limits of time and output."""

from __future__ import annotations

import asyncio
import posixpath
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final

from thunderagent_core.environments.base import ProviderError, ProviderUnavailableError
from thunderagent_core.environments.channel import Channel, ChannelEndedError
from thunderagent_core.environments.channels import ChannelPool, PoolLimits
from thunderagent_core.environments.commands import (
    EnvironmentDiedError,
    ExecError,
    ExecRequest,
    ExecResult,
    command_words,
    export_words,
    quote,
)
from thunderagent_core.environments.files import download, upload
from thunderagent_core.environments.job import Job
from thunderagent_core.environments.liveness import has_ended
from thunderagent_core.environments.output import Output

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping

    from thunderagent_core.environments.base import Place, Provider

__all__ = ["EnvironmentDiedError", "ExecError", "ExecRequest", "ExecResult", "Executor", "Output"]

MAX_TIMEOUT_S: Final = 600.0
MAX_OUTPUT_BYTES: Final = 16 << 20

_BACKLOG_BYTES: Final = 256 << 10
_SETTLE_S: Final = 2.0
_VERDICT_S: Final = 5.0
_KILL_ROUNDS: Final = 4


class Executor:
    """Commands of one environment; at most one executor per environment.

    Args:
        provider: where it lives.
        place: which one.
        env: variables of every command, as in its specification.
        workdir: absolute path at which commands run.
        max_channels: commands that run at the same time; further ones wait.
        max_timeout_s: longest running time that may be asked for, in seconds.
        grace_s: from TERM to KILL for a command that has to end, in seconds.
        pool: other bounds; replaces ``max_channels``.
    """

    def __init__(
        self,
        provider: Provider,
        place: Place,
        *,
        env: Mapping[str, str] | None = None,
        workdir: str = "/",
        max_channels: int = 4,
        max_timeout_s: float = MAX_TIMEOUT_S,
        grace_s: float = 2.0,
        pool: PoolLimits | None = None,
    ) -> None:
        self._provider, self._place = provider, place
        self._env = dict(env or {})
        self._workdir = workdir
        self._max_timeout_s = max_timeout_s
        self._grace_s = grace_s
        self._pool = ChannelPool(self._open, pool or PoolLimits(max_channels=max_channels))
        self._running: dict[Job, Channel | None] = {}
        self._endings: dict[Job, asyncio.Task[None]] = {}

    @property
    def active(self) -> int:
        """Commands that run, wait for a channel, or are being ended."""
        return len(self._running)

    async def run(self, request: ExecRequest) -> ExecResult:
        """Run a command and return its result with what is kept of its output. Cancelled, the command is ended.

        Raises:
            ExecError: see its codes; ``EnvironmentDiedError`` where the environment is at fault.
            ProviderError: the provider could not start a shell.
        """
        job = Job(request.output_limit_bytes)
        async with self._started(request, job):
            await asyncio.shield(job.done)
        return job.result()

    async def stream(self, request: ExecRequest) -> AsyncIterator[Output | ExecResult]:
        """Run a command and yield its output as it comes, then its result without the output.

        The command waits for a caller who takes nothing. Of output beyond the limit the middle is left out and the
        tail comes at the end. Closing the iterator ends the command. Raises the same as ``run``.
        """
        job = Job(request.output_limit_bytes, _BACKLOG_BYTES)
        async with self._started(request, job):
            while (output := await job.next_output()) is not None:
                yield output
        yield job.result()

    async def upload(self, path: str, data: AsyncIterator[bytes] | bytes, mode: int = 0o644) -> int:
        """Write a file; see ``files.upload``."""
        return await upload(self._provider, self._place, path, data, mode)

    def download(self, path: str) -> AsyncIterator[bytes]:
        """Yield the content of a file; see ``files.download``."""
        return download(self._provider, self._place, path)

    async def aclose(self) -> None:
        """End all commands and channels. The environment lives on."""
        self._pool.stop()
        for job, channel in list(self._running.items()):
            if channel is not None:
                self._end(job, channel)
        while self._endings:
            await asyncio.wait(self._endings.values())
        await self._pool.aclose()

    @asynccontextmanager
    async def _started(self, request: ExecRequest, job: Job) -> AsyncIterator[None]:
        timeout_s = self._check(request)
        line = self._directory(request.workdir), export_words(request.env), command_words(request.command)
        self._running[job] = None
        timer: asyncio.TimerHandle | None = None
        try:
            channel = self._running[job] = await self._acquire()
            timer = asyncio.get_running_loop().call_later(timeout_s, self._expire, job, channel)
            await self._begin(channel, job, line)
            yield
            if job in self._endings:
                await asyncio.wait([self._endings[job]])  # it has written its last, but may have left some behind
            self._check_started(job, request)
        except ChannelEndedError:
            raise await self._verdict() from None
        finally:
            if timer is not None:
                timer.cancel()
            self._finish(job)

    def _finish(self, job: Job) -> None:
        channel = self._running.get(job)
        if channel is not None and not job.done.done():
            self._end(job, channel)  # the caller has gone
        if job not in self._endings:
            self._running.pop(job, None)

    async def _begin(self, channel: Channel, job: Job, line: tuple[bytes, bytes, bytes]) -> None:
        try:
            await channel.begin(job, *line)
        except (ProviderError, TimeoutError):
            self._pool.discard(channel)
            raise ChannelEndedError from None
        except BaseException:
            self._pool.discard(channel)  # half a line is with the shell
            raise

    def _expire(self, job: Job, channel: Channel) -> None:
        if not job.done.done():
            job.timed_out = True
            self._end(job, channel)

    def _end(self, job: Job, channel: Channel) -> None:
        """End a command in the background; its job is done afterwards in any case."""
        job.release()
        if job not in self._endings:
            self._endings[job] = asyncio.get_running_loop().create_task(self._ending(job, channel))

    async def _ending(self, job: Job, channel: Channel) -> None:
        try:
            for _ in range(_KILL_ROUNDS):  # it may not have begun when the first one comes
                if job.done.done():
                    return
                await channel.end_command(self._provider, self._place, self._grace_s)
                await asyncio.wait([job.done], timeout=_SETTLE_S)
        except ProviderError:
            pass
        finally:
            if not job.done.done():
                job.fail(ExecError("the command could not be ended", code="kill_failed"))
                self._pool.discard(channel)
            self._endings.pop(job, None)
            self._running.pop(job, None)

    async def _acquire(self) -> Channel:
        try:
            return await self._pool.acquire()
        except ProviderUnavailableError:
            raise
        except (ProviderError, ExecError) as error:
            dead_shell = isinstance(error, ExecError) and error.code == "no_shell"
            if isinstance(error, ExecError) and not dead_shell:
                raise
            if await has_ended(self._provider, self._place, within_s=_SETTLE_S if dead_shell else 0.0):
                raise EnvironmentDiedError("the environment is not running") from None
            raise

    async def _open(self, on_change: Callable[[Channel], None]) -> Channel:
        return await Channel.open(self._provider, self._place, self._env, on_change)

    async def _verdict(self) -> ExecError:
        """Say why a shell ended: with its environment, or alone, for which there must be evidence."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + _VERDICT_S
        while True:
            if await has_ended(self._provider, self._place):
                return EnvironmentDiedError("the environment ended while the command ran")
            if loop.time() > deadline or await self._answers():
                return ExecError("the shell that ran the command ended, maybe by its doing", code="channel_lost")
            await asyncio.sleep(0.1)

    async def _answers(self) -> bool:
        try:
            channel = await self._open(lambda _: None)
        except (ProviderError, ExecError):
            return False
        await channel.aclose()
        return True

    def _directory(self, workdir: str | None) -> bytes:
        path = posixpath.join("/", self._workdir, workdir or "")
        return quote("./" + path.lstrip("/"))  # the shell stands at the root of the environment

    def _check(self, request: ExecRequest) -> float:
        timeout_s = self._max_timeout_s if request.timeout_s is None else request.timeout_s
        if not 0 < timeout_s <= self._max_timeout_s:
            message = f"the time limit must be above 0 and at most {self._max_timeout_s:g} s, not {timeout_s:g}"
            raise ExecError(message, code="bad_command")
        if not 0 <= request.output_limit_bytes <= MAX_OUTPUT_BYTES:
            message = f"the output limit must be from 0 to {MAX_OUTPUT_BYTES} bytes, not {request.output_limit_bytes}"
            raise ExecError(message, code="bad_command")
        return timeout_s

    def _check_started(self, job: Job, request: ExecRequest) -> None:
        if job.refusal == "workdir":
            path = posixpath.join(self._workdir, request.workdir or "")
            raise ExecError(f"there is no directory {path!r} to run in", code="workdir_not_found")
        if job.refusal is not None:
            raise ExecError("the environment variables could not be set", code="bad_command")
