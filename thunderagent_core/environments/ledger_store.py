"""The file itself: opening, checking, schema, and running changes in transactions. Knows no event loop."""

from __future__ import annotations

import os
import sqlite3
from typing import TYPE_CHECKING, Any, Final

from thunderagent_core.environments.ledger_errors import FencedError, LedgerError
from thunderagent_core.environments.ledger_images import IMAGES_TABLE
from thunderagent_core.environments.ledger_rows import ENVIRONMENT_COLUMNS

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    Job = Callable[["Store"], Any]

SCHEMA_VERSION: Final = 1
_APPLICATION_ID: Final = 0x54484E44
_BUSY_TIMEOUT_S: Final = 5.0

_SCHEMA: Final = f"""
CREATE TABLE installation (id TEXT NOT NULL, epoch INTEGER NOT NULL);
CREATE TABLE programs (
    key INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL, parent_id TEXT,
    created_at REAL NOT NULL, ended_at REAL, reason TEXT
);
CREATE UNIQUE INDEX live_programs ON programs (id) WHERE ended_at IS NULL;
CREATE INDEX ended_programs ON programs (ended_at) WHERE ended_at IS NOT NULL;
CREATE TABLE environments (
    id TEXT PRIMARY KEY, program_key INTEGER REFERENCES programs (key), name TEXT NOT NULL, provider TEXT NOT NULL,
    endpoint TEXT NOT NULL, handle TEXT NOT NULL, spec TEXT NOT NULL, digest TEXT NOT NULL, state TEXT NOT NULL,
    used INTEGER NOT NULL, present INTEGER NOT NULL, snapshot TEXT, host TEXT NOT NULL, ports TEXT NOT NULL,
    disk_reserved INTEGER NOT NULL, disk_used INTEGER NOT NULL, code TEXT, reason TEXT, epoch INTEGER NOT NULL,
    created_at REAL NOT NULL, changed_at REAL NOT NULL, ready_at REAL
);
CREATE INDEX environments_by_program ON environments (program_key);
CREATE INDEX environments_by_state ON environments (state, changed_at);
CREATE TABLE snapshots (
    name TEXT PRIMARY KEY, environment_id TEXT NOT NULL, provider TEXT NOT NULL, endpoint TEXT NOT NULL,
    status TEXT NOT NULL, bytes INTEGER NOT NULL, since REAL NOT NULL
) WITHOUT ROWID;
CREATE INDEX snapshots_by_environment ON snapshots (environment_id);
CREATE TABLE ports (
    provider TEXT NOT NULL, endpoint TEXT NOT NULL, port INTEGER NOT NULL, environment_id TEXT NOT NULL,
    PRIMARY KEY (provider, endpoint, port)
) WITHOUT ROWID;
CREATE INDEX ports_by_environment ON ports (environment_id);
PRAGMA application_id = {_APPLICATION_ID};
PRAGMA user_version = {SCHEMA_VERSION};
"""


class Store:
    """One connection to the ledger, for one thread.

    Opening makes it where there is none, and takes it over: the epoch goes up by one, so that a server which had it
    open before is fenced.

    Args:
        path: the file; it is readable by its owner only, since specifications may hold secrets.
        installation: id of the installation where the ledger is new.
        clock: seconds since 1970.
        history: how many environments and programs are remembered that are over.

    Raises:
        LedgerError: it cannot be opened, is damaged, is another program's, or was written by a newer version.
    """

    def __init__(self, path: Path, installation: str, *, clock: Callable[[], float], history: int) -> None:
        self._path = path
        self.now = clock
        self.history = history
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))
            self.connection = sqlite3.connect(path, timeout=_BUSY_TIMEOUT_S, isolation_level=None)
        except (OSError, sqlite3.Error) as error:
            raise LedgerError(f"the ledger {path} cannot be opened: {error}") from error
        try:
            self.installation, self.epoch = self._take_over(installation)
        except sqlite3.DatabaseError as error:
            self.connection.close()
            raise self.problem(error) from error
        except LedgerError:
            self.connection.close()
            raise

    def run(self, jobs: Sequence[Job]) -> list[Any]:
        """Run changes in one transaction and return their results in order; an exception for one that was refused.

        A refused change (any exception that is not SQLite's) undoes itself only.

        Raises:
            FencedError: another server has taken over. Nothing was changed.
            LedgerError: the transaction failed. Nothing was changed.
        """
        try:
            self.connection.execute("BEGIN IMMEDIATE")
            self._check_owner()
            results = [self._run(job) for job in jobs]
            self.connection.execute("COMMIT")
        except BaseException as error:
            if self.connection.in_transaction:
                self.connection.execute("ROLLBACK")
            if isinstance(error, sqlite3.Error):
                raise self.problem(error) from error
            raise
        return results

    def close(self) -> None:
        """Close the connection; what was committed stays."""
        self.connection.close()

    def problem(self, error: sqlite3.Error) -> LedgerError:
        """Put an error of SQLite into words that say what helps."""
        text = str(error)
        if "locked" in text or "busy" in text:
            return LedgerError(f"the ledger {self._path} is held by another process ({text}); end that one first")
        if "malformed" in text or "not a database" in text or "disk image" in text:
            return LedgerError(
                f"the ledger {self._path} is damaged or no ledger ({text}); put a good copy in its place, or move it "
                "away to begin anew: what the old one owned then has to be removed by hand"
            )
        return LedgerError(f"the ledger {self._path} cannot be written: {text}")

    def _run(self, job: Job) -> Any:
        self.connection.execute("SAVEPOINT job")
        try:
            result = job(self)
        except sqlite3.Error:
            raise
        except Exception as refusal:  # noqa: BLE001 - it is handed to whoever asked for the change
            self.connection.execute("ROLLBACK TO job")
            result = refusal
        self.connection.execute("RELEASE job")
        return result

    def _take_over(self, installation: str) -> tuple[str, int]:
        connection = self.connection
        (mode,) = connection.execute("PRAGMA journal_mode = WAL").fetchone()
        if mode != "wal":
            raise LedgerError(f"the ledger {self._path} lies on a file system without write-ahead logging")
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("PRAGMA foreign_keys = ON")
        connection.execute("BEGIN IMMEDIATE")
        if self._is_new():
            for statement in filter(str.strip, _SCHEMA.split(";")):
                connection.execute(statement)
            connection.execute("INSERT INTO installation VALUES (?, 0)", (installation,))
        self._check_file()
        connection.execute(IMAGES_TABLE)
        connection.execute("UPDATE installation SET epoch = epoch + 1")
        found, epoch = connection.execute("SELECT id, epoch FROM installation").fetchone()
        connection.execute("UPDATE environments SET epoch = ? WHERE state <> 'gone'", (epoch,))
        connection.execute("COMMIT")
        return str(found), int(epoch)

    def _is_new(self) -> bool:
        (tables,) = self.connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
        (version,) = self.connection.execute("PRAGMA user_version").fetchone()
        return int(tables) == int(version) == 0

    def _check_file(self) -> None:
        (application,) = self.connection.execute("PRAGMA application_id").fetchone()
        (version,) = self.connection.execute("PRAGMA user_version").fetchone()
        if application != _APPLICATION_ID:
            raise LedgerError(f"{self._path} is a database of another program, not a ledger")
        if version != SCHEMA_VERSION:
            raise LedgerError(
                f"the ledger {self._path} has schema version {version}, and this program knows {SCHEMA_VERSION}: "
                "it was written by another version"
            )
        (sound,) = self.connection.execute("PRAGMA quick_check(1)").fetchone()
        if sound != "ok":
            raise sqlite3.DatabaseError(f"database disk image is malformed: {sound}")

    def _check_owner(self) -> None:
        (epoch,) = self.connection.execute("SELECT epoch FROM installation").fetchone()
        if epoch != self.epoch:
            raise FencedError(f"another server has taken over {self._path} (epoch {epoch}, ours was {self.epoch})")


SELECT_ENVIRONMENTS: Final = f"SELECT {', '.join(ENVIRONMENT_COLUMNS)} FROM environments"  # noqa: S608 - constants
