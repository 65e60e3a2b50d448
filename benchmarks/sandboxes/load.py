"""Programs that wait for the engine, work in an environment, and end."""

from __future__ import annotations

import asyncio
import random
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from thunderagent_core.client import AsyncClient
    from thunderagent_core.client.async_environment import AsyncEnvironment
    from thunderagent_core.client.async_program import AsyncProgram

NAME: Final = "shell"

_MADE: Final = frozenset({"ready", "in_use", "paused"})
_MIB: Final = 1 << 20
_HEAD_START_S: Final = 1.0
"""The first programs fill the engine before the others come."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """What is run.

    Args:
        programs: how many, all of which come at the start.
        pool: how many of them the engine takes at a time.
        write_mib: what each writes into its environment, in MiB.
        turns: requests of each; after each one it runs a command.
        tool_s: mean time in seconds that a tool takes beside its command.
        spec: its environment.
        keep: programs say that they are idle when they have done, and end only when all have.
        seed: for tool times.
    """

    programs: int = 200
    pool: int = 16
    write_mib: int = 20
    turns: int = 4
    tool_s: float = 2.5
    spec: Mapping[str, Any] = field(default_factory=dict)
    keep: bool = False
    seed: int = 1


@dataclass(slots=True)
class ProgramRecord:
    """One program. Times in seconds since 1970, durations in seconds.

    Args:
        number: its place in the order of arrival.
        queued: it found the engine full, so that it had to wait.
        environment: the id of its environment.
        hidden: its environment was there when it first wanted it.
        admitted: when it had the first answer.
        waited_s: how long it then waited for its environment.
        start_s: how long that took to be made ready, from its declaration.
        exec_s: how long its commands took, the big one not counted.
        finished: when it had done.
        released: when its release was sent.
        error: why it failed.
    """

    number: int
    queued: bool
    environment: str = ""
    hidden: bool = False
    admitted: float = 0.0
    waited_s: float = 0.0
    start_s: float | None = None
    exec_s: list[float] = field(default_factory=list)
    finished: float | None = None
    released: float | None = None
    error: str | None = None


class Programs:
    """Runs them all against one server.

    Args:
        client: of the server.
        load: what to run.
        on_finished: called when one has done.
    """

    def __init__(self, client: AsyncClient, load: Load, on_finished: Callable[[], None]) -> None:
        self.records = [ProgramRecord(number, queued=number >= load.pool) for number in range(load.programs)]
        self._client = client
        self._load = load
        self._on_finished = on_finished
        self._all_done = asyncio.Event()
        self._open = load.programs

    async def run(self) -> None:
        """Run them to their end. A program that fails says so in its record; the others go on."""
        async with asyncio.TaskGroup() as group:
            for record in self.records:
                if record.number == self._load.pool:
                    await asyncio.sleep(_HEAD_START_S)
                group.create_task(self._run(record))

    def finished(self) -> set[str]:
        """Return the environments of programs that need them no more."""
        return {record.environment for record in self.records if record.finished is not None}

    async def _run(self, record: ProgramRecord) -> None:
        try:
            async with self._client.program(f"p{record.number:04d}", environments=[self._load.spec]) as program:
                try:
                    await self._work(record, program)
                finally:
                    self._done(record)
                if self._load.keep:
                    await program.idle()
                    await self._all_done.wait()
                record.released = time.time()
        except Exception as error:  # noqa: BLE001 - told in the record
            record.error = f"{type(error).__name__}: {error}"
            self._done(record)

    def _done(self, record: ProgramRecord) -> None:
        if record.finished is not None:
            return
        record.finished = time.time()
        self._open -= 1
        self._on_finished()
        if not self._open:
            self._all_done.set()

    async def _work(self, record: ProgramRecord, program: AsyncProgram) -> None:
        sandbox = program.environment(NAME)
        chance = random.Random(self._load.seed * 1_000_003 + record.number)
        for turn in range(self._load.turns):
            message = f"Turn {turn} of program {record.number}: what is to be done next?"
            await program.chat(messages=[{"role": "user", "content": message}], max_tokens=16)
            if turn == 0:
                await self._first_use(record, sandbox)
            else:
                began = time.perf_counter()
                await sandbox.exec("ls -l data", check=True)
                record.exec_s.append(time.perf_counter() - began)
            await asyncio.sleep(self._load.tool_s * chance.uniform(0.5, 1.5))

    async def _first_use(self, record: ProgramRecord, sandbox: AsyncEnvironment) -> None:
        """Note whether the environment is there, wait until it is, and fill it."""
        record.admitted = time.time()
        view = await sandbox.view()
        record.environment, record.hidden = view.id, view.state in _MADE
        began = time.perf_counter()
        view = await sandbox.wait_ready()
        record.waited_s = time.perf_counter() - began
        record.start_s = view.start_s
        await sandbox.exec(f"dd if=/dev/zero of=data bs={_MIB} count={self._load.write_mib}", check=True)
