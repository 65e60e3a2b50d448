"""The ledger's mirror in memory, changed only after a change is on disk."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from thunderagent_core.environments.base import LABEL_ENVIRONMENT, LABEL_INSTALLATION, LABEL_PROGRAM
from thunderagent_core.environments.ledger_errors import FencedError
from thunderagent_core.environments.manager.record import Program, Record
from thunderagent_core.environments.states import State

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from typing import Unpack

    from thunderagent_core.environments.ledger import Contents, Ledger
    from thunderagent_core.environments.ledger_images import ImageKey, ImageRow
    from thunderagent_core.environments.ledger_rows import EnvironmentRow, Fields, ProgramRow, SnapshotRow


class Records:
    """All programs and environments that are not over, and the only way to change them.

    Args:
        ledger: where changes go first.
        fenced: called when it turns out that another server has taken over.
    """

    def __init__(self, ledger: Ledger, fenced: Callable[[], None]) -> None:
        self.ledger = ledger
        self._fenced = fenced
        self.programs: dict[str, Program] = {}
        """Live ones by id."""
        self.lives: dict[int, Program] = {}
        """The same by key, and those that have ended but are not gone."""
        self._over: dict[int, Program] = {}
        """Only the latter."""
        self._children: dict[str, set[str]] = {}
        """Live programs by their parent's id."""
        self.environments: dict[str, Record] = {}
        self.snapshots: dict[str, dict[str, SnapshotRow]] = {}
        """By environment, then by name."""
        self.images: dict[ImageKey, ImageRow] = {}
        """Those that we brought."""
        self.listeners: list[Callable[[Record], None]] = []
        """Called after each change of an environment, its end included."""

    def fill(self, contents: Contents) -> None:
        """Take in what the ledger holds."""
        for program in contents.programs:
            self._learn(program)
        for row in contents.environments:
            self.apply(row)
        for snapshot in contents.snapshots:
            self._apply_snapshot(snapshot)
        for image in contents.images:
            self._apply_image(image)

    def labels(self, record: Record) -> Mapping[str, str]:
        """Return what everything made for an environment carries."""
        labels = {LABEL_INSTALLATION: self.ledger.installation, LABEL_ENVIRONMENT: record.id}
        if record.program is not None:
            labels[LABEL_PROGRAM] = record.program.row.id
        return labels

    def snapshots_of(self, record: Record) -> list[SnapshotRow]:
        """Return the snapshots that belong to an environment."""
        return list(self.snapshots.get(record.id, {}).values())

    def members(self, program_id: str) -> list[Record]:
        """Return all environments of a program, those of its earlier lives included that are not gone yet."""
        programs = [one for one in self._over.values() if one.row.id == program_id]
        if program_id in self.programs:
            programs.append(self.programs[program_id])
        return [self.environments[member] for one in programs for member in one.members]

    def family(self, program: Program) -> list[Program]:
        """Return a live program with its live descendants."""
        found = [program]
        for member in found:
            found += [self.programs[child] for child in sorted(self._children.get(member.row.id, ()))]
        return found

    # Changes

    async def declare(
        self, program_id: str, parent_id: str | None, parent_key: int | None, rows: Sequence[EnvironmentRow]
    ) -> Program:
        """Remember a program and environments of it."""
        future = self.ledger.declare(program_id, rows, parent_id=parent_id, parent_key=parent_key)
        found, _ = await self._commit(future, self._declared)
        return self.lives[found.key]

    async def add(self, row: EnvironmentRow) -> Record:
        """Remember an environment that belongs to no program."""
        await self._commit(self.ledger.add(row), self.apply)
        return self.environments[row.id]

    async def end(self, programs: Sequence[Program], reason: str) -> list[Record]:
        """Record the end of programs; return their environments, which are RECLAIMING from then on."""
        await self._commit(self.ledger.end([program.row.key for program in programs], reason), self._ended)
        return [self.environments[member] for program in programs for member in sorted(program.members)]

    async def change(
        self,
        record: Record,
        state: State | None = None,
        *,
        expect: State | None = None,
        leases: Mapping[int, int] | None = None,
        **fields: Unpack[Fields],
    ) -> None:
        """Change an environment; see ``Ledger.change``."""
        future = self.ledger.change(record.id, state, expect=expect, leases=leases, **fields)
        await self._commit(future, self.apply)

    async def replace(self, record: Record, row: EnvironmentRow, reason: str) -> Record:
        """Give up an environment and request another in its place; return the new one."""
        await self._commit(self.ledger.replace(record.id, row, reason), self._apply_all)
        return self.environments[row.id]

    async def hand_out(self, warm: Record, requested: Record) -> None:
        """Give a warm environment to a program; ``requested`` is forgotten."""

        def given(row: EnvironmentRow) -> None:
            self.environments.pop(requested.id, None)
            if requested.program is not None:
                requested.program.members.discard(requested.id)
            warm.wanted = requested.wanted
            self.apply(row)
            requested.notify()

        await self._commit(self.ledger.hand_out(warm.id, requested.row), given)

    async def measured(self, used: Mapping[str, int]) -> None:
        """Remember the disk use of environments."""
        await self._commit(self.ledger.measured(used), self._apply_all)

    async def put_snapshot(self, row: SnapshotRow) -> None:
        """Remember a snapshot, or its new status."""
        await self._commit(self.ledger.put_snapshot(row), self._apply_snapshot)

    async def forget_snapshot(self, row: SnapshotRow) -> None:
        """Forget a snapshot that is gone."""

        def forgotten(_: None) -> None:
            mine = self.snapshots.get(row.environment_id, {})
            mine.pop(row.name, None)
            if not mine:
                self.snapshots.pop(row.environment_id, None)

        await self._commit(self.ledger.forget_snapshot(row.name), forgotten)

    async def put_aside(self, record: Record, snapshot: SnapshotRow) -> None:
        """Record that an environment is SNAPSHOTTED; see ``Ledger.put_aside``."""

        def aside(result: tuple[EnvironmentRow, SnapshotRow]) -> None:
            self._apply_snapshot(result[1])
            self.apply(result[0])

        await self._commit(self.ledger.put_aside(record.id, snapshot), aside)

    async def put_image(self, row: ImageRow) -> None:
        """Remember an image that we bring, or what is known of it by now."""
        await self._commit(self.ledger.put_image(row), self._apply_image)

    async def forget_image(self, row: ImageRow) -> None:
        """Forget an image that is gone, or is not ours."""

        def forgotten(_: None) -> None:
            self.images.pop(row.key, None)

        await self._commit(self.ledger.forget_image(row.key), forgotten)

    async def images_used(self, used: Mapping[ImageKey, float]) -> None:
        """Remember when images were last needed."""

        def apply(_: None) -> None:
            for key, at in used.items():
                if key in self.images:
                    self.images[key] = replace(self.images[key], last_used_at=at)

        await self._commit(self.ledger.images_used(used), apply)

    async def _commit(self, future: asyncio.Future[Any], apply: Callable[[Any], None]) -> Any:
        """Wait for a change and mirror it. A task that is cancelled ends only after the change is settled."""
        applied = asyncio.get_running_loop().create_future()

        def settled(_: asyncio.Future[Any]) -> None:
            try:
                result = future.result()
                apply(result)
            except FencedError as error:
                self._fenced()
                applied.set_exception(error)
            except Exception as error:  # noqa: BLE001 - it is raised again where somebody waits
                applied.set_exception(error)
            else:
                applied.set_result(result)

        future.add_done_callback(settled)  # which come in the order of the transactions, unlike those who wait
        try:
            return await asyncio.shield(applied)
        except asyncio.CancelledError:
            await _outlast(applied)
            raise

    # The mirror

    def apply(self, row: EnvironmentRow) -> None:
        """Take over what the ledger holds of one environment."""
        program = self.lives.get(row.program_key) if row.program_key is not None else None
        record = self.environments.get(row.id)
        if record is None:
            record = self.environments[row.id] = Record(row, program)
        record.row, record.program = row, program
        if row.state is State.GONE:
            del self.environments[row.id]
        if program is not None:
            self._name(program, record)
            self._forget(program)
        record.notify()
        for listener in self.listeners:
            listener(record)

    def _name(self, program: Program, record: Record) -> None:
        """Let an environment answer to its name, unless it is on its way out."""
        program.members.add(record.id)
        if record.state is State.GONE:
            program.members.discard(record.id)
        if record.state not in {State.RECLAIMING, State.GONE}:
            program.environments[record.row.name] = record
        elif program.environments.get(record.row.name) is record:
            del program.environments[record.row.name]

    def _learn(self, row: ProgramRow) -> None:
        program = self.lives.get(row.key)
        if program is None:
            program = self.lives[row.key] = Program(row)
        program.row = row
        siblings = self._children.setdefault(row.parent_id, set()) if row.parent_id is not None else set()
        if row.ended_at is None:
            self.programs[row.id] = program
            siblings.add(row.id)
        elif self.programs.get(row.id) is program:
            del self.programs[row.id]
            siblings.discard(row.id)
        if row.ended_at is not None:
            self._over[row.key] = program
        if row.parent_id is not None and not siblings:
            del self._children[row.parent_id]

    def _forget(self, program: Program) -> None:
        if program.row.ended_at is not None and not program.members:
            self.lives.pop(program.row.key, None)
            self._over.pop(program.row.key, None)

    def _declared(self, result: tuple[ProgramRow, list[EnvironmentRow]]) -> None:
        self._learn(result[0])
        self._apply_all(result[1])

    def _ended(self, result: tuple[list[ProgramRow], list[EnvironmentRow]]) -> None:
        for program in result[0]:
            self._learn(program)
        self._apply_all(result[1])
        for program in result[0]:
            self._forget(self.lives[program.key])

    def _apply_all(self, rows: Iterable[EnvironmentRow]) -> None:
        for row in rows:
            self.apply(row)

    def _apply_snapshot(self, row: SnapshotRow) -> None:
        self.snapshots.setdefault(row.environment_id, {})[row.name] = row

    def _apply_image(self, row: ImageRow) -> None:
        self.images[row.key] = row


async def _outlast(future: asyncio.Future[Any]) -> None:
    """Wait for a future through any number of cancellations."""
    while not future.done():
        try:
            await asyncio.wait([future])
        except asyncio.CancelledError:
            continue
    future.exception()  # nobody else will ask for it
