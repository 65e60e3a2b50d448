"""What the ledger remembers: programs, environments and snapshots, and how they lie in the tables."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any, TypedDict

import msgspec

from thunderagent_core.environments.spec import EnvironmentSpec
from thunderagent_core.environments.states import State

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Mapping


class SnapshotStatus(StrEnum):
    """How far a snapshot can be relied on."""

    TAKING = "taking"
    """It is being taken: whatever is found under its name is worth nothing."""
    WHOLE = "whole"
    """It was verified."""
    DROPPING = "dropping"
    """Nobody needs it any more: it is to be removed."""
    QUARANTINED = "quarantined"
    """It was found with our label, but nobody knows whose it is: kept for a grace period."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProgramRow:
    """One life of a program. An id that comes back after its end gets another row, with another ``key``."""

    key: int
    id: str
    parent_id: str | None
    created_at: float
    ended_at: float | None = None
    reason: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class EnvironmentRow:
    """One environment. Times are in seconds since 1970, sizes in bytes.

    Args:
        id: random, never used again.
        program_key: whose it is; None: it is warm, or nobody knows.
        name: what its program calls it.
        provider: who makes it.
        endpoint: where; empty before that is decided, and where the provider has only one.
        handle: its name there.
        spec: what was asked for.
        digest: of the specification.
        state: where it stands.
        used: its program has used it, so that what is in it exists nowhere else.
        present: something of it may exist outside under its handle.
        snapshot: it was made from this snapshot, or exists only as it.
        host: address at which its ports can be reached.
        ports: host port of each port inside; 0 before the daemon chose one.
        disk_reserved: taken off the budget while it is present.
        disk_used: as last measured.
        code: a word for why it is FAILED or LOST.
        reason: a sentence for why it is in its state.
        epoch: of the server that changed it last.
        created_at: when it was asked for.
        changed_at: when its state changed last.
        ready_at: when it became ready for the first time; None: it never was.
    """

    id: str
    program_key: int | None
    name: str
    provider: str
    endpoint: str = ""
    handle: str
    spec: EnvironmentSpec
    digest: str
    state: State = State.REQUESTED
    used: bool = False
    present: bool = False
    snapshot: str | None = None
    host: str = ""
    ports: Mapping[int, int] = field(default_factory=dict)
    disk_reserved: int = 0
    disk_used: int = 0
    code: str | None = None
    reason: str | None = None
    epoch: int = 0
    created_at: float = 0.0
    changed_at: float = 0.0
    ready_at: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SnapshotRow:
    """One snapshot: whose it is, where it lies, its size in bytes and since when its status holds."""

    name: str
    environment_id: str
    provider: str
    endpoint: str
    status: SnapshotStatus
    bytes: int = 0
    since: float = 0.0


class Fields(TypedDict, total=False):
    """Columns of an environment that may be changed, with ``EnvironmentRow``'s meaning."""

    endpoint: str
    used: bool
    present: bool
    snapshot: str | None
    host: str
    ports: Mapping[int, int]
    disk_used: int
    code: str | None
    reason: str | None
    ready_at: float | None


ENVIRONMENT_COLUMNS: tuple[str, ...] = tuple(EnvironmentRow.__dataclass_fields__)


def encode(column: str, value: Any) -> Any:
    """Return what is stored for a value."""
    if column == "spec":
        return msgspec.json.encode(value).decode()
    if column == "ports":
        return msgspec.json.encode(dict(value)).decode()
    return value


def environment_row(row: sqlite3.Row) -> EnvironmentRow:
    """Return the environment that a row of the table describes."""
    values = dict(zip(ENVIRONMENT_COLUMNS, row, strict=True))
    values["spec"] = msgspec.json.decode(values["spec"], type=EnvironmentSpec)
    values["ports"] = msgspec.json.decode(values["ports"], type=dict[int, int])
    values["state"] = State(values["state"])
    values["used"], values["present"] = bool(values["used"]), bool(values["present"])
    return EnvironmentRow(**values)


def snapshot_row(row: sqlite3.Row) -> SnapshotRow:
    """Return the snapshot that a row of the table describes."""
    name, environment_id, provider, endpoint, status, size, since = row
    return SnapshotRow(
        name=name,
        environment_id=environment_id,
        provider=provider,
        endpoint=endpoint,
        status=SnapshotStatus(status),
        bytes=size,
        since=since,
    )
