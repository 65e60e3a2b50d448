"""What happens to tool environments, as far as scheduling is concerned: when they are to be made."""

from __future__ import annotations

from typing import TYPE_CHECKING

from thunderagent_core.scheduling.decisions import Reason
from thunderagent_core.scheduling.program import Preparation, Status

if TYPE_CHECKING:
    from thunderagent_core.scheduling.events import (
        EnvironmentFailed,
        EnvironmentReady,
        EnvironmentsWanted,
        EnvironmentUsed,
        ProgramFound,
    )
    from thunderagent_core.scheduling.program import Program
    from thunderagent_core.scheduling.state import State


def want(state: State, program: Program, now: float) -> None:
    """Take in that a program has environments to be made: at once where it is active, else when its turn nears."""
    program.preparation = Preparation.WANTED
    if program.status is Status.ACTIVE:
        state.order(program, Reason.ACTIVE, now)
    else:
        state.recount(program, now)


class EnvironmentEvents:
    """The environments' part of the scheduler's event handlers."""

    def __init__(self, state: State) -> None:
        self._state = state

    def found(self, event: ProgramFound, now: float) -> None:
        """Take up a program of an earlier server; its environments are to run again when it comes back."""
        if event.program_id not in self._state.programs:
            program = self._state.create(event.program_id, now)
            self._state.family.adopt(program, event.parent_id)
            want(self._state, program, now)

    def wanted(self, event: EnvironmentsWanted, now: float) -> None:
        """Have them made in time."""
        if (program := self._state.programs.get(event.program_id)) is not None:
            want(self._state, program, now)

    def used(self, event: EnvironmentUsed, now: float) -> None:
        """Renew the lease; a program that waits for a person keeps its longer one."""
        if (program := self._state.programs.get(event.program_id)) is not None:
            program.active_at = now

    def ready(self, event: EnvironmentReady, now: float) -> None:
        """Learn how long it took."""
        if (program := self._state.programs.get(event.program_id)) is None:
            return
        if program.preparation is Preparation.ORDERED:
            self._state.window.prepared(now - program.ordered_at)
        program.preparation = Preparation.READY
        self._state.recount(program, now)

    def failed(self, event: EnvironmentFailed, now: float) -> None:
        """Note it: the program runs on, and its tools are told."""
        if (program := self._state.programs.get(event.program_id)) is not None:
            program.preparation = Preparation.FAILED
            self._state.recount(program, now)

    def order_next(self, now: float) -> None:
        """Have the environments made of waiting programs whose turn is near."""
        state = self._state
        while (program_id := state.window.next()) is not None:
            state.order(state.programs[program_id], Reason.NEAR, now)
