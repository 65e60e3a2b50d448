"""Programs: declared with their environments, and ended."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import msgspec

from thunderagent_core.environments.ledger_errors import FencedError, LedgerError, ParentEndedError
from thunderagent_core.environments.ledger_rows import EnvironmentRow
from thunderagent_core.environments.manager.errors import ConflictError, UnknownProviderError
from thunderagent_core.environments.manager.locks import KeyedLocks
from thunderagent_core.environments.spec import MAX_ENVIRONMENTS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from thunderagent_core.environments.manager.creation import Creation
    from thunderagent_core.environments.manager.kit import Kit
    from thunderagent_core.environments.manager.reclamation import Reclamation
    from thunderagent_core.environments.manager.record import Program
    from thunderagent_core.environments.spec import EnvironmentSpec

_LOG = logging.getLogger(__name__)


class Declaring:
    """Begins and ends programs, one after the other for each program.

    Args:
        kit: shared.
        creation: forgets what is not to be made any more.
        reclamation: takes back what ended programs owned.
    """

    def __init__(self, kit: Kit, creation: Creation, reclamation: Reclamation) -> None:
        self._kit = kit
        self._creation = creation
        self._reclamation = reclamation
        self._locks = KeyedLocks()

    def busy(self, program_id: str) -> bool:
        """Whether a program is being declared or ended at the moment."""
        return self._locks.held(program_id)

    def new_row(self, spec: EnvironmentSpec) -> EnvironmentRow:
        """Return the row of an environment that is only requested. Raises UnknownProviderError."""
        provider = spec.provider or self._kit.settings.default_provider
        if provider not in self._kit.providers:
            known = ", ".join(sorted(self._kit.providers)) or "none"
            raise UnknownProviderError(f"this server does not run the provider {provider!r} (it runs: {known})")
        spec = msgspec.structs.replace(spec, provider=provider)
        token = self._kit.token(8)
        return EnvironmentRow(
            id=token,
            program_key=None,
            name=spec.name,
            provider=provider,
            handle=self._kit.ledger.handle(token),
            spec=spec,
            digest=spec.digest,
            disk_reserved=spec.disk_bytes,
        )

    async def declare(self, program_id: str, specs: Sequence[EnvironmentSpec], parent_id: str | None) -> Program:
        """Remember a program and what it wants, durably; add what it did not want before.

        Raises:
            ConflictError: it was declared with another parent, or an environment of the same name differently; or it
                would have too many; or its parent has just ended.
            UnknownProviderError: an environment wants a provider that is not run here.
        """
        async with self._locks.hold(program_id):
            program = self._kit.records.programs.get(program_id)
            if program is not None and parent_id is not None and program.row.parent_id != parent_id:
                raise ConflictError(f"program {program_id!r} has the parent {program.row.parent_id!r}")
            rows = [self.new_row(spec) for spec in specs if not self._is_declared(program, spec)]
            if len(rows) + (0 if program is None else len(program.environments)) > MAX_ENVIRONMENTS:
                raise ConflictError(f"a program may have {MAX_ENVIRONMENTS} environments")
            if program is not None and not rows:
                return program
            parent = None if parent_id is None else self._kit.records.programs.get(parent_id)
            key = None if parent is None else parent.row.key
            try:
                return await self._kit.records.declare(program_id, parent_id, key, rows)
            except ParentEndedError as error:
                raise ConflictError(str(error)) from None

    async def end(self, program_id: str, reason: str) -> bool:
        """Record that a program and its descendants have ended, then take back what they own.

        Repeated until it is recorded. False where it is not known, or has ended before.
        """
        async with self._locks.hold(program_id):
            program = self._kit.records.programs.get(program_id)
            if program is None:
                return False
            # More than once: a child may have been declared while the end of its parent was on the way to the disk.
            while family := [one for one in self._kit.records.family(program) if one.row.ended_at is None]:
                await self._end(family, reason)
            return True

    async def _end(self, family: Sequence[Program], reason: str) -> None:
        backoff = self._kit.backoff()
        while True:
            try:
                records = await self._kit.records.end(family, reason)
            except FencedError:
                raise
            except LedgerError as error:
                _LOG.warning("the end of %s cannot be recorded yet: %s", family[0].row.id, error)
                await backoff.wait()
            else:
                break
        for program in family:
            program.stop_freezing()
        for record in records:
            self._creation.withdraw(record)
            self._reclamation.begin(record)

    def _is_declared(self, program: Program | None, spec: EnvironmentSpec) -> bool:
        """Whether there is such an environment already. Raises ConflictError where its name stands for another."""
        record = None if program is None else program.environments.get(spec.name)
        if record is None:
            return False
        wanted = spec if spec.provider is not None else msgspec.structs.replace(spec, provider=record.row.provider)
        if record.spec != wanted:
            raise ConflictError(f"environment {spec.name!r} was declared differently before")
        return True
