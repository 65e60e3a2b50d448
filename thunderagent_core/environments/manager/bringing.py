"""Bringing an environment to where its program can use it, from whatever state it is in."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from thunderagent_core.environments.base import ProviderUnavailableError
from thunderagent_core.environments.ledger_errors import FencedError, LedgerError, StaleStateError
from thunderagent_core.environments.manager.errors import (
    EnvironmentLostError,
    NotReadyError,
    PreparationError,
    QueueFullError,
    UnknownEnvironmentError,
    UnknownProgramError,
    UnreachableError,
)
from thunderagent_core.environments.manager.running import EXISTING
from thunderagent_core.environments.states import State

if TYPE_CHECKING:
    from thunderagent_core.environments.manager.creation import Creation
    from thunderagent_core.environments.manager.kit import Kit
    from thunderagent_core.environments.manager.record import Failure, Record
    from thunderagent_core.environments.manager.running import Running
    from thunderagent_core.environments.manager.warm import Warm

_LOG = logging.getLogger(__name__)

_UNREACHABLE_AGAIN_S: Final = 0.5


@dataclass(slots=True)
class Wish:
    """One caller's wait.

    Args:
        use: it is about to run commands, rather than only to wait.
        tried: it has seen an attempt begin, so that a failure is its answer.
        unreachable: why nothing is certain at the moment.
    """

    use: bool
    tried: bool = False
    unreachable: str | None = None


class Bringing:
    """Serves callers who need an environment.

    Args:
        kit: shared.
        creation: makes what does not exist.
        running: revives what exists.
        warm: may have one ready.
    """

    def __init__(self, kit: Kit, creation: Creation, running: Running, warm: Warm) -> None:
        self._kit = kit
        self._creation = creation
        self._running = running
        self._warm = warm

    def find(self, program_id: str, name: str) -> Record:
        """Return a program's environment. Raises UnknownProgramError, UnknownEnvironmentError."""
        program = self._kit.records.programs.get(program_id)
        if program is None:
            raise UnknownProgramError(f"no live program {program_id!r} has environments")
        record = program.environments.get(name)
        if record is None:
            raise UnknownEnvironmentError(f"program {program_id!r} has no environment {name!r}")
        return record

    def begin(self, record: Record) -> bool:
        """Begin to make an environment that does not exist; False where the queue is full. Nothing waits here."""
        if record.state is State.REQUESTED and self._warm.has(record.row.digest):
            self._kit.tasks.spawn(self._hand_out(record), f"hand out for {record.row.handle}")
            return True
        return self._creation.want(record)

    async def bring(self, program_id: str, name: str, timeout_s: float, *, use: bool) -> Record:
        """Return an environment that runs, pinned: the caller unpins it.

        With ``use`` it is IN_USE, on disk; likewise where it has ports, since whoever waits learns them.

        Raises:
            UnknownProgramError, UnknownEnvironmentError: there is none, or it was reclaimed meanwhile.
            PreparationError: it could not be made.
            EnvironmentLostError: it is gone.
            QueueFullError: too many wait.
            NotReadyError, UnreachableError: the time is over.
            StoppingError, FencedError: the manager stops.
        """
        wish = Wish(use)
        record = self.find(program_id, name)
        self._note_wanted(record)
        if not use:
            record.running = False  # whoever waits wants to know for certain, and its ports as they are now
        began = asyncio.get_running_loop().time()
        try:
            async with asyncio.timeout(timeout_s):
                record = await self._bring(program_id, name, wish)
        except TimeoutError:
            if wish.unreachable is not None:
                raise UnreachableError(wish.unreachable) from None
            raise NotReadyError(f"environment {name!r} was not ready within {timeout_s:g} s") from None
        if not record.served:
            record.served = True
            self._kit.statistics.wait_s.append(asyncio.get_running_loop().time() - began)
        return record

    async def _bring(self, program_id: str, name: str, wish: Wish) -> Record:
        while True:
            if self._kit.tasks.stopped is not None:
                raise self._kit.tasks.stopped
            record = self.find(program_id, name)
            changed = record.changed
            self._running.pin(record)
            ready = False
            try:
                ready = await self._advance(record, wish)
            except ProviderUnavailableError as error:
                wish.unreachable = str(error)
                await asyncio.sleep(_UNREACHABLE_AGAIN_S)
                continue
            except StaleStateError:
                continue  # somebody changed it meanwhile: look again
            finally:
                if not ready:
                    self._running.unpin(record)
            if ready:
                return record
            await changed.wait()

    async def _advance(self, record: Record, wish: Wish) -> bool:
        """Do the next step; True when it runs."""
        if record.state in EXISTING:
            await self._running.revive(record)
            wish.unreachable = None
            if record.state is State.READY and record.running and (wish.use or record.spec.ports):
                await self._kit.records.change(record, State.IN_USE, expect=State.READY, used=True)
            return record.running and record.state in {State.READY, State.IN_USE}
        if record.state is State.LOST:
            raise EnvironmentLostError(record.row.reason or "it is lost")
        self._check_failure(record, wish)
        if not self.begin(record):
            raise QueueFullError(f"{self._creation.queued} environments wait to be made already")
        wish.tried = wish.tried or record.failure is None
        return False

    def _check_failure(self, record: Record, wish: Wish) -> None:
        failure: Failure | None = record.failure
        if failure is not None and (failure.permanent or wish.tried):
            raise PreparationError(failure.reason, failure.code)

    def _note_wanted(self, record: Record) -> None:
        """Count how many were ready by the time that they were asked for."""
        if record.wanted:
            return
        record.wanted = True
        self._kit.statistics.wanted += 1
        self._kit.statistics.hidden += record.state in EXISTING

    async def _hand_out(self, record: Record) -> None:
        given = False
        try:
            given = await self._warm.hand_out(record)
        except FencedError:
            raise
        except LedgerError as error:
            _LOG.warning("no warm environment was handed out: %s", error)
        if not given:
            self._creation.want(record)
