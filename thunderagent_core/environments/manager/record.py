"""A program and an environment in memory: their rows, and what need not survive a crash."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from thunderagent_core.environments.base import Place

if TYPE_CHECKING:
    from thunderagent_core.environments.exec import Executor
    from thunderagent_core.environments.ledger_rows import EnvironmentRow, ProgramRow
    from thunderagent_core.environments.spec import EnvironmentSpec
    from thunderagent_core.environments.states import State


@dataclass(frozen=True, slots=True)
class Failure:
    """Why an environment could not be made.

    Args:
        code: a word for programs.
        reason: a sentence for people.
        permanent: trying again cannot help.
        unreachable: it is not known what was made.
    """

    code: str
    reason: str
    permanent: bool = False
    unreachable: bool = False


@dataclass(slots=True, eq=False)
class Program:
    """One life of a program.

    Args:
        row: as in the ledger.
        environments: those that answer to a name.
        members: ids of all of them, those included that are on their way out.
        paused: the scheduler has paused it and does not expect it back yet.
        expected: it is to come back soon, so what is frozen of it is not put aside.
        freezing: fires when its environments are to be frozen.
    """

    row: ProgramRow
    environments: dict[str, Record] = field(default_factory=dict)
    members: set[str] = field(default_factory=set)
    paused: bool = False
    expected: bool = False
    freezing: asyncio.TimerHandle | None = None

    def stop_freezing(self) -> None:
        """Disarm the timer."""
        if self.freezing is not None:
            self.freezing.cancel()
            self.freezing = None


@dataclass(slots=True, eq=False)
class Record:
    """One environment that is not GONE.

    Args:
        row: as in the ledger.
        program: whose it is.
        lock: held during every effect on it, so that no two meet.
        task: makes it or takes its snapshot; ends on cancellation.
        pins: commands that run in it or are about to; while there are any it is neither frozen nor put aside.
        admitted: the endpoint where it is being made, so that its disk counts before the ledger says that it is there.
        running: it was seen alive, and nothing has been heard since that casts doubt on it.
        dirty: what is there was half made, so that it has to be made from scratch.
        attempts: how often another was given up before this one.
        reclaiming: somebody is at work to take it back.
        hooked: its hook before the end was run.
        failure: why it was not made the last time.
        wanted: its program has asked for it.
        served: its program has got it.
        executor: runs commands in it.
        changed: set, and replaced by another, at the next change.
    """

    row: EnvironmentRow
    program: Program | None
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    task: asyncio.Task[Any] | None = None
    pins: int = 0
    admitted: str | None = None
    running: bool = False
    dirty: bool = False
    attempts: int = 0
    reclaiming: bool = False
    hooked: bool = False
    failure: Failure | None = None
    wanted: bool = False
    served: bool = False
    executor: Executor | None = None
    changed: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def id(self) -> str:
        """Its id."""
        return self.row.id

    @property
    def state(self) -> State:
        """Its state."""
        return self.row.state

    @property
    def spec(self) -> EnvironmentSpec:
        """What was asked for."""
        return self.row.spec

    @property
    def place(self) -> Place:
        """Where it is."""
        return Place(self.row.endpoint, self.row.handle)

    @property
    def endpoint(self) -> str:
        """Where it is, or is about to be."""
        return self.row.endpoint if self.admitted is None else self.admitted

    @property
    def holds_disk(self) -> bool:
        """Whether it takes up disk: it exists, or may exist, or is about to."""
        return self.row.present or self.admitted is not None

    def notify(self) -> None:
        """Wake everybody who waits for a change."""
        changed, self.changed = self.changed, asyncio.Event()
        changed.set()
