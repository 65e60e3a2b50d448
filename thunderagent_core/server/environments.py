"""Joins tool environments to the scheduler: its decisions become orders to the manager, its news become events."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from thunderagent_core.environments.ledger_errors import LedgerError
from thunderagent_core.environments.states import State
from thunderagent_core.scheduling.decisions import Pause, Prepare, Reclaim, Restore
from thunderagent_core.scheduling.events import (
    EnvironmentFailed,
    EnvironmentReady,
    EnvironmentsWanted,
    EnvironmentUsed,
    ProgramFound,
)
from thunderagent_core.scheduling.program import Preparation, Status

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from thunderagent_core.environments.manager.manager import Manager
    from thunderagent_core.environments.manager.views import EnvironmentView
    from thunderagent_core.environments.spec import EnvironmentSpec
    from thunderagent_core.scheduling.decisions import Decision
    from thunderagent_core.server.runtime import Runtime

_LOG = logging.getLogger(__name__)

_BROKEN = frozenset({State.FAILED, State.LOST})
_THERE = frozenset({State.READY, State.IN_USE, State.PAUSED})
_LEAVING = frozenset({State.RECLAIMING, State.GONE})


class Environments:
    """One listener of the scheduler's decisions and one of the manager's changes; it keeps nothing that matters.

    Args:
        manager: owns the environments.
        runtime: takes events and tells decisions.
    """

    def __init__(self, manager: Manager, runtime: Runtime) -> None:
        self.manager = manager
        self._runtime = runtime
        self._ending: dict[str, asyncio.Task[None]] = {}

    def start(self) -> None:
        """Go on with the programs of the last server: they are live until they are released or their lease ends."""
        for program in self.manager.live_programs():
            self._runtime.post(ProgramFound(program.id, program.parent_id))
        self._runtime.listeners.add(self._heed)
        self.manager.on_change(self._changed)

    async def aclose(self) -> None:
        """Let ends that are being recorded be recorded; environments live on."""
        self._runtime.listeners.discard(self._heed)
        await asyncio.gather(*self._ending.values(), return_exceptions=True)

    # From the scheduler to the manager

    def _heed(self, now: float, decision: Decision) -> None:  # noqa: ARG002 - the signature of a listener
        kind = type(decision)
        if kind is Prepare:
            self.manager.prepare(decision.program_id)  # type: ignore[union-attr, arg-type]
        elif kind is Pause:
            self.manager.paused(decision.program_id)  # type: ignore[union-attr, arg-type]
        elif kind is Restore:
            self.manager.restored(decision.program_id)  # type: ignore[union-attr, arg-type]
        elif kind is Reclaim:
            self._end(decision.program_id, str(decision.reason))  # type: ignore[union-attr, arg-type]

    def _end(self, program_id: str, reason: str) -> None:
        if not self.manager.knows(program_id):
            return
        task = asyncio.get_running_loop().create_task(self._record_end(program_id, reason), name=f"end {program_id}")
        self._ending[program_id] = task
        task.add_done_callback(lambda done: self._ended(program_id, done))

    async def _record_end(self, program_id: str, reason: str) -> None:
        try:
            await self.manager.ended(program_id, reason)
        except LedgerError as error:  # its lease under the next server ends it
            _LOG.error("the end of program %r could not be recorded: %s", program_id, error)

    def _ended(self, program_id: str, task: asyncio.Task[None]) -> None:
        if self._ending.get(program_id) is task:
            del self._ending[program_id]

    async def settled(self, program_id: str) -> None:
        """Wait until a program's end is on disk, if it is being recorded."""
        task = self._ending.get(program_id)
        if task is not None:
            await asyncio.shield(task)

    # From clients

    async def declare(self, program_id: str, specs: Sequence[EnvironmentSpec], parent_id: str | None = None) -> bool:
        """Remember durably what a program wants; tell whether any of it is new. Raises what the manager raises."""
        await self.settled(program_id)  # a program may be begun again under the same id
        before = {view.id for view in self.manager.views(program_id)}
        views = await self.manager.declare(program_id, specs, parent_id=parent_id)
        return any(view.id not in before for view in views)

    def withdraw(self, program_id: str) -> None:
        """Take a declaration back whose program did not come into being."""
        if self._runtime.program(program_id) is None and program_id not in self._ending:
            self._end(program_id, "its request was refused")

    def wanted(self, program_id: str) -> None:
        """Have a live program's new environments made in time."""
        self._runtime.post(EnvironmentsWanted(program_id))

    def used(self, program_id: str) -> None:
        """Renew a program's lease: it works in its environment."""
        self._runtime.post(EnvironmentUsed(program_id))

    # From the manager to the scheduler

    def _changed(self, program_id: str | None) -> None:
        """Post what an environment's change means for its program as a whole, where that is news."""
        program = None if program_id is None else self._runtime.program(program_id)
        if program is None or program.preparation is Preparation.NONE:
            return
        found = _preparation(self.manager.views(program.id))
        if found is None or found is program.preparation:
            return
        if found is Preparation.READY:
            self._runtime.post(EnvironmentReady(program.id))
        elif found is Preparation.FAILED:
            self._runtime.post(EnvironmentFailed(program.id))
        elif program.status is Status.PAUSED and program.preparation is not Preparation.ORDERED:
            self._runtime.post(EnvironmentsWanted(program.id))


def _preparation(views: Iterable[EnvironmentView]) -> Preparation | None:
    """Return how far a program's environments are, taken together; None while they are being made."""
    states = {view.state for view in views} - _LEAVING
    if states & _BROKEN:
        return Preparation.FAILED
    if State.PREPARING in states:
        return None
    return Preparation.READY if states <= _THERE else Preparation.WANTED
