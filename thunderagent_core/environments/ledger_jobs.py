"""The changes themselves: each runs on the writer's thread, inside a transaction that its caller commits."""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass
from dataclasses import replace as replaced
from typing import TYPE_CHECKING, Any, cast

from thunderagent_core.environments.ledger_errors import ParentEndedError, PortLeasedError, StaleStateError
from thunderagent_core.environments.ledger_rows import (
    ENVIRONMENT_COLUMNS,
    EnvironmentRow,
    Fields,
    ProgramRow,
    SnapshotRow,
    SnapshotStatus,
    encode,
    environment_row,
    snapshot_row,
)
from thunderagent_core.environments.ledger_store import SELECT_ENVIRONMENTS
from thunderagent_core.environments.states import State, check_transition

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from thunderagent_core.environments.ledger_store import Store

_PROGRAMS = "SELECT key, id, parent_id, created_at, ended_at, reason FROM programs"
_SNAPSHOTS = "SELECT name, environment_id, provider, endpoint, status, bytes, since FROM snapshots"
_INSERT = (
    f"INSERT INTO environments ({', '.join(ENVIRONMENT_COLUMNS)}) "  # noqa: S608 - constants
    f"VALUES ({', '.join('?' * len(ENVIRONMENT_COLUMNS))})"
)


@dataclass(frozen=True, slots=True)
class Change:
    """A change of one environment: see ``Ledger.change``."""

    environment_id: str
    state: State | None
    expect: State | None
    leases: Mapping[int, int] | None
    fields: Fields


def load(store: Store) -> tuple[list[ProgramRow], list[EnvironmentRow], list[SnapshotRow], dict[Any, str]]:
    """Return programs, environments, snapshots and leases that are not over."""
    execute = store.connection.execute
    environments = [environment_row(row) for row in execute(f"{SELECT_ENVIRONMENTS} WHERE state <> 'gone'")]
    keys = {row.program_key for row in environments}
    programs = [_program(row) for row in execute(_PROGRAMS)]
    leases = {(row[0], row[1], row[2]): row[3] for row in execute("SELECT * FROM ports")}
    return (
        [program for program in programs if program.ended_at is None or program.key in keys],
        environments,
        [snapshot_row(row) for row in execute(_SNAPSHOTS)],
        leases,
    )


def declare(
    store: Store,
    program_id: str,
    parent_id: str | None,
    parent_key: int | None,
    rows: Sequence[EnvironmentRow],
) -> tuple[ProgramRow, list[EnvironmentRow]]:
    """See ``Ledger.declare``."""
    execute = store.connection.execute
    if parent_key is not None:
        parent = execute("SELECT 1 FROM programs WHERE key = ? AND ended_at IS NULL", (parent_key,)).fetchone()
        if parent is None:
            raise ParentEndedError(f"program {parent_id} has ended")
    live = f"{_PROGRAMS} WHERE id = ? AND ended_at IS NULL"
    found = execute(live, (program_id,)).fetchone()
    if found is None:
        values = (program_id, parent_id, store.now())
        execute("INSERT INTO programs (id, parent_id, created_at) VALUES (?, ?, ?)", values)
        found = execute(live, (program_id,)).fetchone()
    program = _program(found)
    return program, [add(store, replaced(row, program_key=program.key)) for row in rows]


def add(store: Store, row: EnvironmentRow) -> EnvironmentRow:
    """Insert an environment."""
    now = store.now()
    row = replaced(row, epoch=store.epoch, created_at=now, changed_at=now)
    store.connection.execute(_INSERT, [encode(column, getattr(row, column)) for column in ENVIRONMENT_COLUMNS])
    return row


def end(store: Store, keys: Sequence[int], reason: str) -> tuple[list[ProgramRow], list[EnvironmentRow]]:
    """See ``Ledger.end``."""
    execute, now = store.connection.execute, store.now()
    changed: list[EnvironmentRow] = []
    for key in keys:
        execute("UPDATE programs SET ended_at = ?, reason = ? WHERE key = ? AND ended_at IS NULL", (now, reason, key))
        rows = _select(store, "program_key = ? AND state NOT IN ('reclaiming', 'gone')", key)
        changed += [change(store, Change(row.id, State.RECLAIMING, None, None, {"reason": reason})) for row in rows]
    programs = [_program(execute(f"{_PROGRAMS} WHERE key = ?", (key,)).fetchone()) for key in keys]
    _forget_programs(store)
    return programs, changed


def change(store: Store, order: Change) -> EnvironmentRow:
    """See ``Ledger.change``."""
    row = _environment(store, order.environment_id)
    if order.expect is not None and row.state is not order.expect:
        raise StaleStateError(f"{row.id} is {row.state}, not {order.expect}")
    row = replaced(row, **order.fields)
    if order.state is not None and order.state is not row.state:
        check_transition(row.id, row.state, order.state)
        row = replaced(row, state=order.state, changed_at=store.now())
    row = replaced(row, epoch=store.epoch)
    if order.leases is not None:
        _lease(store, row, order.leases)
    _update(store, row)
    if row.state is State.GONE:
        _forget_environments(store, row.id)
    return row


def replace(store: Store, environment_id: str, row: EnvironmentRow, reason: str) -> list[EnvironmentRow]:
    """See ``Ledger.replace``."""
    before = _environment(store, environment_id)
    if before.used or before.snapshot is not None:
        raise StaleStateError(f"{environment_id} was used: nothing can stand in for it")
    old = change(store, Change(environment_id, State.RECLAIMING, State.PREPARING, None, {"reason": reason}))
    return [old, add(store, row)]


def hand_out(store: Store, warm_id: str, requested: EnvironmentRow) -> EnvironmentRow:
    """See ``Ledger.hand_out``."""
    execute = store.connection.execute
    # No effect was ever taken for a requested one, so nothing of it has to be remembered.
    gone = execute("DELETE FROM environments WHERE id = ? AND state = 'requested'", (requested.id,))
    given = execute(
        "UPDATE environments SET program_key = ?, name = ?, spec = ?, epoch = ?, changed_at = ? "
        "WHERE id = ? AND program_key IS NULL AND state = 'ready'",
        (
            requested.program_key,
            requested.name,
            encode("spec", requested.spec),  # which differs in its name only
            store.epoch,
            store.now(),
            warm_id,
        ),
    )
    if gone.rowcount != 1 or given.rowcount != 1:
        raise StaleStateError(f"{warm_id} cannot be given out in place of {requested.id}")
    return _environment(store, warm_id)


def measured(store: Store, used: Mapping[str, int]) -> list[EnvironmentRow]:
    """See ``Ledger.measured``."""
    for environment_id, size in used.items():
        store.connection.execute("UPDATE environments SET disk_used = ? WHERE id = ?", (size, environment_id))
    return [row for environment_id in used for row in _select(store, "id = ?", environment_id)]


def fates(store: Store, ids: Collection[str]) -> dict[str, State]:
    """See ``Ledger.fates``."""
    return {row.id: row.state for environment_id in ids for row in _select(store, "id = ?", environment_id)}


def put_snapshot(store: Store, row: SnapshotRow) -> SnapshotRow:
    """See ``Ledger.put_snapshot``."""
    row = replaced(row, since=store.now())
    values = (row.name, row.environment_id, row.provider, row.endpoint, row.status, row.bytes, row.since)
    store.connection.execute("REPLACE INTO snapshots VALUES (?, ?, ?, ?, ?, ?, ?)", values)
    return row


def forget_snapshot(store: Store, name: str) -> None:
    """See ``Ledger.forget_snapshot``."""
    store.connection.execute("DELETE FROM snapshots WHERE name = ?", (name,))


def put_aside(store: Store, environment_id: str, snapshot: SnapshotRow) -> tuple[EnvironmentRow, SnapshotRow]:
    """See ``Ledger.put_aside``."""
    row = change(store, Change(environment_id, State.SNAPSHOTTED, State.PAUSED, None, {"snapshot": snapshot.name}))
    return row, put_snapshot(store, replaced(snapshot, status=SnapshotStatus.WHOLE))


def _environment(store: Store, environment_id: str) -> EnvironmentRow:
    for row in _select(store, "id = ?", environment_id):
        return row
    raise StaleStateError(f"{environment_id} is not known any more")


def _select(store: Store, condition: str, value: Any) -> list[EnvironmentRow]:
    found = store.connection.execute(f"{SELECT_ENVIRONMENTS} WHERE {condition}", (value,))
    return [environment_row(row) for row in found]


def _update(store: Store, row: EnvironmentRow) -> None:
    columns = ENVIRONMENT_COLUMNS[1:]
    assignments = ", ".join(f"{column} = ?" for column in columns)
    values = [encode(column, getattr(row, column)) for column in columns]
    store.connection.execute(f"UPDATE environments SET {assignments} WHERE id = ?", [*values, row.id])  # noqa: S608


def _lease(store: Store, row: EnvironmentRow, leases: Mapping[int, int]) -> None:
    execute = store.connection.execute
    execute("DELETE FROM ports WHERE environment_id = ?", (row.id,))
    for port in filter(None, leases.values()):
        try:
            execute("INSERT INTO ports VALUES (?, ?, ?, ?)", (row.provider, row.endpoint, port, row.id))
        except sqlite3.IntegrityError:
            raise PortLeasedError(f"port {port} is leased to another environment") from None


def _forget_environments(store: Store, environment_id: str) -> None:
    """Free what a GONE one held, and forget those that went longest ago."""
    execute = store.connection.execute
    execute("DELETE FROM ports WHERE environment_id = ?", (environment_id,))
    newest = execute(
        "SELECT changed_at FROM environments WHERE state = 'gone' ORDER BY changed_at DESC LIMIT 1 OFFSET ?",
        (store.history,),
    ).fetchone()
    if newest is not None:
        execute("DELETE FROM environments WHERE state = 'gone' AND changed_at < ?", newest)


def _forget_programs(store: Store) -> None:
    """Forget programs that ended longest ago and of whose environments none is remembered."""
    execute = store.connection.execute
    newest = execute(
        "SELECT ended_at FROM programs WHERE ended_at IS NOT NULL ORDER BY ended_at DESC LIMIT 1 OFFSET ?",
        (store.history,),
    ).fetchone()
    if newest is not None:
        execute(
            "DELETE FROM programs WHERE ended_at < ? "
            "AND NOT EXISTS (SELECT 1 FROM environments WHERE program_key = programs.key)",
            newest,
        )


def _program(row: Any) -> ProgramRow:
    key, program_id, parent_id, created_at, ended_at, reason = row
    return ProgramRow(
        key=key,
        id=program_id,
        parent_id=parent_id,
        created_at=created_at,
        ended_at=ended_at,
        reason=cast("str | None", reason),
    )
