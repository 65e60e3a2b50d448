"""Environments that exist: whether they are alive, freezing and thawing, starting again, and death."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from thunderagent_core.environments.base import Liveness, ProviderError, ProviderUnavailableError
from thunderagent_core.environments.ledger_errors import FencedError, LedgerError, StaleStateError
from thunderagent_core.environments.states import State

if TYPE_CHECKING:
    from thunderagent_core.environments.base import Provider
    from thunderagent_core.environments.manager.creation import Creation
    from thunderagent_core.environments.manager.kit import Kit
    from thunderagent_core.environments.manager.record import Program, Record
    from thunderagent_core.environments.spec import EnvironmentSpec

_LOG = logging.getLogger(__name__)

EXISTING = frozenset({State.READY, State.IN_USE, State.PAUSED})
"""States in which an environment is there, as far as anybody knows."""


class Running:
    """Keeps what exists in the condition that its program needs.

    Args:
        kit: shared.
        creation: makes again what died untouched.
    """

    def __init__(self, kit: Kit, creation: Creation) -> None:
        self._kit = kit
        self._creation = creation
        creation.made.append(self._made)

    # Programs that pause and come back

    def paused(self, program: Program) -> None:
        """Freeze a program's environments after the grace period, unless it comes back before."""
        program.paused = True
        self._arm(program)

    def restored(self, program: Program) -> None:
        """Let a program's environments run."""
        program.paused = False
        program.stop_freezing()
        for record in program.environments.values():
            if record.state is State.PAUSED:
                self._kit.tasks.spawn(self._thaw_quietly(record), f"thaw {record.row.handle}")

    def pin(self, record: Record) -> None:
        """Keep an environment from being frozen or put aside until ``unpin``."""
        record.pins += 1

    def unpin(self, record: Record) -> None:
        """Take back one ``pin``; the grace period of a paused program begins again."""
        record.pins -= 1
        program = record.program
        if not record.pins and program is not None and program.paused:
            self._arm(program)

    def _arm(self, program: Program) -> None:
        program.stop_freezing()
        loop = asyncio.get_running_loop()
        program.freezing = loop.call_later(self._kit.settings.freeze_after_s, self._freeze_all, program)

    def _made(self, record: Record) -> None:
        if record.program is not None and record.program.paused:
            self._arm(record.program)

    def _freeze_all(self, program: Program) -> None:
        program.freezing = None
        for record in program.environments.values():
            if self._may_freeze(record):
                self._kit.tasks.spawn(self._freeze(record), f"freeze {record.row.handle}")

    def _may_freeze(self, record: Record) -> bool:
        program = record.program
        idle = program is not None and program.paused and not record.pins
        return idle and record.state in {State.READY, State.IN_USE} and can_freeze(record.spec)

    async def _freeze(self, record: Record) -> None:
        async with record.lock:
            if self._may_freeze(record):
                await self.freeze(record)

    async def freeze(self, record: Record) -> None:
        """Pause an environment, whose lock is held. What cannot be frozen now counts as paused all the same."""
        try:
            await self._kit.records.change(record, State.PAUSED, expect=record.state)
            record.running = False
            self._kit.statistics.frozen += 1
            await self._kit.provider(record.row.provider).freeze(record.place)
        except FencedError:
            raise
        except StaleStateError:
            return
        except (ProviderError, LedgerError) as error:
            _LOG.warning("%s could not be frozen: %s", record.row.handle, error)

    async def _thaw_quietly(self, record: Record) -> None:
        try:
            await self.revive(record)
        except FencedError:
            raise
        except (ProviderError, LedgerError, StaleStateError) as error:
            _LOG.warning("%s could not be thawed yet: %s", record.row.handle, error)

    # Life and death

    async def revive(self, record: Record) -> None:
        """Let an environment run that exists: thaw it, start it again, or find out that it has died.

        Its state tells the outcome: READY or IN_USE with ``running`` set; PREPARING where it is being made again;
        LOST. Raises ProviderUnavailableError where nothing is certain; then nothing has changed.
        """
        async with record.lock:
            if record.state is State.PAUSED:
                await self._kit.records.change(record, _unfrozen(record), expect=State.PAUSED)
            if record.state in EXISTING and not record.running:
                await self._look(record)

    async def check(self, record: Record) -> None:
        """Look at an environment of which something is suspicious, and act on what is certain."""
        async with record.lock:
            if record.state not in EXISTING:
                return
            if record.state is State.PAUSED:
                sighting = await self._provider(record).look(record.place)
                if sighting.liveness is Liveness.GONE:
                    await self._died(record, State.PAUSED)
                return
            record.running = False
            await self._look(record)

    def _provider(self, record: Record) -> Provider:
        return self._kit.provider(record.row.provider)

    async def _look(self, record: Record) -> None:
        provider, state = self._provider(record), record.state
        sighting = await provider.look(record.place)
        if sighting.liveness is Liveness.UNKNOWN:
            raise ProviderUnavailableError(f"nothing is known of {record.row.handle} at the moment")
        if sighting.liveness is Liveness.GONE:
            await self._died(record, state)
            return
        if sighting.liveness is Liveness.FROZEN:
            await provider.thaw(record.place)
        elif sighting.liveness is Liveness.STOPPED:
            _LOG.info("%s has stopped and is started again", record.row.handle)
            await self._kit.close_executor(record)
            sighting = await provider.start(record.place)
        if (record.row.host, dict(record.row.ports)) != (sighting.host, dict(sighting.ports)):
            await self._kit.records.change(record, expect=state, host=sighting.host, ports=sighting.ports)
        record.running = True

    async def _died(self, record: Record, state: State) -> None:
        """Act on the certainty that an environment is gone: make it again if untouched, else it is LOST."""
        await self._kit.close_executor(record)
        record.running = False
        reason = "it has disappeared for reasons outside of the server"
        if record.row.used:
            change = self._kit.records.change
            await change(record, State.LOST, expect=state, code="environment_lost", reason=reason)
            self._kit.statistics.lost += 1
            _LOG.error("%s is lost: %s", record.row.handle, reason)
            return
        await self._kit.records.change(record, State.PREPARING, expect=state, reason=reason)
        record.dirty = True
        record.failure = None
        self._creation.want(record)


def can_freeze(spec: EnvironmentSpec) -> bool:
    """Whether commands are the only way in. What serves on a port, or runs a program of its own, must not stop."""
    return not spec.ports and spec.command is None


def _unfrozen(record: Record) -> State:
    return State.IN_USE if record.row.used else State.READY
