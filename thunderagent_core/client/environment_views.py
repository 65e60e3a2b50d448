"""What the server tells of tool environments and of commands in them."""

from __future__ import annotations

import base64
from typing import Any

import msgspec


class EnvironmentView(msgspec.Struct, frozen=True, kw_only=True):
    """One tool environment. Sizes in bytes, times in seconds.

    Args:
        id: its id.
        name: what its program calls it.
        program_id: whose it is; None: it is kept ready for whoever comes, or nobody knows.
        provider: what makes it, such as docker.
        endpoint: where it is.
        state: requested, preparing, ready, in_use, paused, snapshotted, reclaiming, failed, lost or quarantined.
        code: a word for why it failed or is lost.
        reason: a sentence for why.
        host: address of its ports, once it has been used or waited for.
        ports: host port by port inside.
        position: how many wait to be made before it.
        disk_reserved_bytes: what it reserves.
        disk_used_bytes: what it uses, as last measured.
        snapshot: the snapshot that holds it, or from which it was made.
        age_s: since it was declared.
        state_s: since its state changed.
        start_s: from its declaration until it was ready for the first time.
        spec: what was asked for.
    """

    id: str
    name: str
    program_id: str | None = None
    provider: str = ""
    endpoint: str = ""
    state: str = ""
    code: str | None = None
    reason: str | None = None
    host: str | None = None
    ports: dict[int, int] = {}
    position: int | None = None
    disk_reserved_bytes: int = 0
    disk_used_bytes: int = 0
    snapshot: str | None = None
    age_s: float = 0.0
    state_s: float = 0.0
    start_s: float | None = None
    spec: dict[str, Any] = {}


class EnvironmentList(msgspec.Struct, frozen=True):
    """Answer of the routes that list environments."""

    environments: tuple[EnvironmentView, ...] = ()


class ReapItem(msgspec.Struct, frozen=True, kw_only=True):
    """Something that is taken back, or will be in ``due_in_s`` seconds."""

    kind: str
    name: str
    provider: str
    endpoint: str
    reason: str
    due_in_s: float = 0.0


class Reaped(msgspec.Struct, frozen=True):
    """Answer of ``POST /environments/reap``."""

    items: tuple[ReapItem, ...] = ()


class ExecResult(msgspec.Struct, frozen=True, kw_only=True):
    """How a command ended.

    Args:
        exit_code: its exit status, 128 + N where signal N ended it.
        stdout_bytes: what it wrote, less what was dropped from the middle; empty where it was streamed.
        stderr_bytes: the same of its standard error.
        dropped_stdout_bytes: how many bytes were dropped.
        dropped_stderr_bytes: the same of its standard error.
        timed_out: it was ended because its time was up.
        duration_s: how long it ran.
    """

    exit_code: int
    stdout_bytes: bytes = msgspec.field(default=b"", name="stdout")
    stderr_bytes: bytes = msgspec.field(default=b"", name="stderr")
    dropped_stdout_bytes: int = 0
    dropped_stderr_bytes: int = 0
    timed_out: bool = False
    duration_s: float = 0.0

    @property
    def stdout(self) -> str:
        """Standard output as text; what is no UTF-8 is replaced."""
        return self.stdout_bytes.decode(errors="replace")

    @property
    def stderr(self) -> str:
        """Standard error as text."""
        return self.stderr_bytes.decode(errors="replace")

    @property
    def output(self) -> str:
        """Both, standard output first: what an agent is to read."""
        return self.stdout + self.stderr


class ExecOutput(msgspec.Struct, frozen=True):
    """A piece of a command's output: ``stream`` is stdout or stderr."""

    stream: str
    data: bytes


class CommandFailedError(Exception):
    """A command that was to be checked ended with another status than 0; ``result`` tells the rest."""

    def __init__(self, command: object, result: ExecResult) -> None:
        why = "ran out of time" if result.timed_out else f"ended with status {result.exit_code}"
        super().__init__(f"{command!r} {why}: {result.output[-2000:]}")
        self.result = result


def exec_piece(item: dict[str, Any]) -> ExecOutput | ExecResult:
    """Return an event of a streamed command."""
    if "exit_code" in item:
        return msgspec.convert(item, ExecResult)
    return ExecOutput(item["stream"], base64.b64decode(item["data"]))
