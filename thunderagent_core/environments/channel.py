"""A long-lived shell inside an environment that runs one command after another, each within milliseconds."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Final, Self

from thunderagent_core.environments.base import ProviderError, Stream
from thunderagent_core.environments.commands import ExecError, quote
from thunderagent_core.environments.driver import DRIVER, GREETING, KILLER, KILLER_FOUND_NO_SHELL
from thunderagent_core.environments.markers import Mark, Scanner, new_nonce

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from thunderagent_core.environments.base import Place, Process, Provider
    from thunderagent_core.environments.job import Job

SHELL: Final = "/bin/sh"

_CHUNK_BYTES: Final = 65536
_GREETING_S: Final = 30.0
_WRITE_S: Final = 30.0
_ASK_S: Final = 5.0
_CLOSE_S: Final = 10.0
_KILL_S: Final = 30.0


class ChannelEndedError(Exception):
    """The shell ended, or the connection to it, while a command was under way."""


class Channel:
    """One shell. Its owner gives it a job at a time and hears of it through ``on_change``.

    Args:
        process: the shell, which has read nothing yet.
        on_change: called when a job has settled and when the shell has ended.
    """

    def __init__(self, process: Process, on_change: Callable[[Channel], None]) -> None:
        self.pid = 0
        """The shell's process id inside the environment."""
        self.single = True
        """It is good for one command only: the environment has no way to tell its processes apart from the shell."""
        self.ended = False
        self.held = False
        """A process of an earlier command may still write to it."""
        self._being_ended = False
        self._closing = False
        self._process = process
        self._on_change = on_change
        self._job: Job | None = None
        self._question: tuple[Scanner, asyncio.Future[str]] | None = None
        self._pump: asyncio.Task[None] | None = None

    @property
    def settling(self) -> bool:
        """Whether its command has ended and it will shortly be known whether it can be used again."""
        return self._being_ended or (self._job is not None and self._job.done.done())

    @classmethod
    async def open(
        cls, provider: Provider, place: Place, env: Mapping[str, str], on_change: Callable[[Channel], None]
    ) -> Self:
        """Start a shell and wait until it answers.

        Raises:
            ExecError: ``no_shell``: there is none that works.
            ProviderError: the provider could not start a process.
        """
        process = await provider.spawn(place, (SHELL,), env=env, workdir="/")
        channel = cls(process, on_change)
        try:
            await channel._greet()
        except BaseException:
            await channel.aclose()
            raise
        return channel

    async def begin(self, job: Job, directory: bytes, exports: bytes, words: bytes) -> None:
        """Hand over a command; its end is told by ``job.done``. Cancelled half-way, the channel must be closed."""
        self._job = job
        job.begin()
        opening = f"{{ t_run {job.start} {job.end}".encode()
        exports = quote(exports.decode("utf-8", "surrogateescape"))
        closing = b"; }\n"  # without it, the shell runs nothing of a line that broke off
        await self._write(b" ".join((opening, directory, exports, words, closing)))

    async def end_command(self, provider: Provider, place: Place, grace_s: float) -> None:
        """End the command with all its descendants: TERM, and KILL after a grace in seconds.

        Until this returns, the channel does not report that its job has settled, lest another one be hit. Where the
        shell is dead but some process holds its outputs open, the job fails here. Raises ProviderError where no
        process could be started to do it.
        """
        self._being_ended = True
        try:
            pid = str(self.pid)
            arguments = (pid, str(round(grace_s * 10)), pid if self.single else "")
            if await _kill(provider, place, arguments, grace_s) == KILLER_FOUND_NO_SHELL:
                self.ended = True
                self._gone()
        finally:
            self._being_ended = False
            if self._job is None and not self.ended:
                self._on_change(self)

    async def still_held(self) -> bool:
        """Ask whether some process of an earlier command can still write here; True where there is no answer."""
        if self.single or self.ended:
            return True
        with contextlib.suppress(ProviderError, TimeoutError, ChannelEndedError):
            async with asyncio.timeout(_ASK_S):
                self.held = (await self._ask(b"t_settle %s\n")) != "clean"
                return self.held
        return True

    async def aclose(self) -> None:
        """End the shell, but not what was started by it."""
        self.ended = True
        if self._closing:
            return
        self._closing = True
        with contextlib.suppress(ProviderError, TimeoutError):
            async with asyncio.timeout(_CLOSE_S):
                await self._process.close_input()  # a shell beyond our reach ends of itself
        with contextlib.suppress(ProviderError, TimeoutError):
            async with asyncio.timeout(_CLOSE_S):
                await self._process.aclose()
        if self._pump is not None:
            self._pump.cancel()
            await asyncio.wait([self._pump])
        self._gone()

    async def _greet(self) -> None:
        self._pump = asyncio.create_task(self._read())
        try:
            async with asyncio.timeout(_GREETING_S):
                kind, pid = (await self._ask(DRIVER.replace(b"%", b"%%") + GREETING)).split()
        except (ChannelEndedError, TimeoutError, ProviderError, ValueError):
            raise ExecError(f"no usable {SHELL} answers in the environment", code="no_shell") from None
        self.pid, self.single = int(pid), kind == "single"

    async def _ask(self, question: bytes) -> str:
        """Write shell that holds one ``%s`` and return what it says with that word."""
        nonce = new_nonce()
        answer: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._question = (Scanner(nonce, nonce), answer)
        try:
            await self._write(question % nonce.encode())
            return await answer
        finally:
            self._question = None

    async def _write(self, data: bytes) -> None:
        async with asyncio.timeout(_WRITE_S):
            for at in range(0, len(data), _CHUNK_BYTES):
                await self._process.write(data[at : at + _CHUNK_BYTES])

    async def _read(self) -> None:
        """Take all that the shell and its commands write, for as long as it lives."""
        with contextlib.suppress(ProviderError):
            while (piece := await self._process.read()) is not None:
                self._take(*piece)
                if self._job is not None and self._job.full:
                    await self._job.taken()
        self.ended = True
        self._gone()

    def _take(self, stream: Stream, data: bytes) -> None:
        if self._question is not None:
            if stream is Stream.STDOUT:
                self._answer(*self._question, data)
        elif self._job is None:
            self.held = True  # nobody was asked: it comes from a process left behind
        else:
            self._job.feed(stream, data)
            if self._job.settled:
                self._settle(self._job)

    @staticmethod
    def _answer(scanner: Scanner, answer: asyncio.Future[str], data: bytes) -> None:
        for found in scanner.feed(data):
            if isinstance(found, Mark) and not answer.done():
                answer.set_result(found.word)

    def _settle(self, job: Job) -> None:
        if not job.done.done():
            return  # the other stream has not ended yet
        self._job = None
        self.held = not job.reusable
        if not self._being_ended:
            self._on_change(self)

    def _gone(self) -> None:
        job, self._job = self._job, None
        if job is not None:
            job.fail(ChannelEndedError())
        if self._question is not None and not self._question[1].done():
            self._question[1].set_exception(ChannelEndedError())
        self._on_change(self)


async def _kill(provider: Provider, place: Place, arguments: tuple[str, ...], grace_s: float) -> int | None:
    """Return the exit status of the killer, None where it took too long."""
    try:
        async with asyncio.timeout(grace_s + _KILL_S):
            process = await provider.spawn(place, (SHELL, "-c", KILLER, SHELL, *arguments), workdir="/")
            try:
                while await process.read() is not None:
                    pass
                return await process.wait()
            finally:
                await process.aclose()
    except TimeoutError:
        return None
