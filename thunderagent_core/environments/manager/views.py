"""What others see of programs and environments."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from thunderagent_core.environments.states import State

if TYPE_CHECKING:
    from collections.abc import Mapping

    from thunderagent_core.environments.manager.record import Program, Record
    from thunderagent_core.environments.spec import EnvironmentSpec

_ADDRESSED = frozenset({State.IN_USE, State.PAUSED})


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownProgram:
    """A program that was live when the last server stopped, with what it had declared."""

    id: str
    parent_id: str | None
    created_at: float
    specs: tuple[EnvironmentSpec, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class EnvironmentView:
    """One environment, as it stands. Times in seconds since 1970, sizes in bytes.

    Args:
        id: its id.
        program_id: whose it is; None: it is warm, or nobody knows.
        name: what its program calls it.
        provider: who makes it.
        endpoint: where it is.
        state: where it stands.
        code: a word for why it failed or is lost.
        reason: a sentence for why.
        host: address of its ports; empty before its program has used it or waited for it.
        ports: host port of each port inside; likewise.
        position: how many wait to be made before it; None where it does not wait.
        disk_reserved: what it reserves.
        disk_used: as last measured.
        snapshot: it is, or was made from, this snapshot.
        created_at: when it was declared.
        changed_at: when its state changed last.
        ready_at: when it was ready for the first time.
        spec: what was asked for.
    """

    id: str
    program_id: str | None
    name: str
    provider: str
    endpoint: str
    state: State
    code: str | None
    reason: str | None
    host: str
    ports: Mapping[int, int]
    position: int | None
    disk_reserved: int
    disk_used: int
    snapshot: str | None
    created_at: float
    changed_at: float
    ready_at: float | None
    spec: EnvironmentSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class ReapItem:
    """Something that is, or will be, taken back.

    Args:
        kind: ``environment`` or ``snapshot``.
        name: its name outside.
        provider: where it is.
        endpoint: where it is.
        reason: why it goes.
        due_in_s: how long it stays yet, in seconds; 0: now.
    """

    kind: str
    name: str
    provider: str
    endpoint: str
    reason: str
    due_in_s: float


def known(program: Program) -> KnownProgram:
    """Return what is to be known of a program after a restart."""
    return KnownProgram(
        id=program.row.id,
        parent_id=program.row.parent_id,
        created_at=program.row.created_at,
        specs=tuple(record.spec for record in program.environments.values()),
    )


def view_of(record: Record, position: int | None) -> EnvironmentView:
    """Return what others see of an environment.

    Its address stays hidden until it counts as used: who knows a port may have changed what is behind it.
    """
    row = record.row
    known = row.state in _ADDRESSED and row.used
    return EnvironmentView(
        id=row.id,
        program_id=None if record.program is None else record.program.row.id,
        name=row.name,
        provider=row.provider,
        endpoint=row.endpoint,
        state=row.state,
        code=row.code,
        reason=row.reason,
        host=row.host if known else "",
        ports=row.ports if known else {},
        position=position,
        disk_reserved=row.disk_reserved,
        disk_used=row.disk_used,
        snapshot=row.snapshot,
        created_at=row.created_at,
        changed_at=row.changed_at,
        ready_at=row.ready_at,
        spec=row.spec,
    )
