"""Tells processes apart for certain: a number alone may have been given to another process in the meantime."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

import msgspec

from thunderagent_core.environments.process.launching import MARKER

if TYPE_CHECKING:
    from collections.abc import Iterator

_DEAD: Final = "ZX"
_STOPPED: Final = "T"
_WAITING: Final = "D"
_EXITING: Final = 0x4


class Identity(msgspec.Struct, frozen=True, kw_only=True):
    """A process that is or was on this host.

    Args:
        pid: its number.
        started: when it began, in clock ticks since the host started.
        boot: which start of the host.
    """

    pid: int
    started: int
    boot: str


def boot_id() -> str:
    """Return what differs with every start of the host."""
    return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()


def identify(pid: int) -> Identity | None:
    """Return who has this number now; None: nobody, or a process that has ended."""
    found = _stat(pid)
    if found is None or found.state in _DEAD:
        return None
    return Identity(pid=pid, started=found.started, boot=boot_id())


def is_alive(process: Identity) -> bool:
    """Whether it runs, stopped or not. A zombie does not."""
    return identify(process.pid) == process


def is_doomed(process: Identity) -> bool:
    """Whether it runs but is about to end: it is ending already, or has been killed while it was frozen."""
    found = _stat(process.pid)
    if found is None or found.started != process.started or found.state in _DEAD:
        return False
    return bool(found.flags & _EXITING) or _pending(process.pid, signal.SIGKILL)


def is_stopped(process: Identity) -> bool:
    """Whether a signal has stopped it, or will before it does anything more.

    The latter is a process that waits for a child, which shares its memory until it executes a program and was stopped
    before it could.
    """
    found = _stat(process.pid)
    if found is None or found.started != process.started:
        return False
    return found.state == _STOPPED or (found.state == _WAITING and _pending(process.pid, signal.SIGSTOP))


def open_process(process: Identity) -> int | None:
    """Return a pidfd, which stands for this process and no other; None where it has ended."""
    try:
        descriptor = os.pidfd_open(process.pid)
    except ProcessLookupError:
        return None
    if is_alive(process):
        return descriptor
    os.close(descriptor)
    return None


def send_signal(process: Identity, number: signal.Signals) -> None:
    """Send a signal to this process and no other. One that has ended is no error."""
    descriptor = open_process(process)
    if descriptor is not None:
        try:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(descriptor, number)
        finally:
            os.close(descriptor)


async def wait_for_end(process: Identity) -> None:
    """Wait until it has ended; for the init of a sandbox: until every process in it has."""
    descriptor = open_process(process)
    if descriptor is None:
        return
    loop = asyncio.get_running_loop()
    ended = asyncio.Event()
    loop.add_reader(descriptor, ended.set)
    try:
        await ended.wait()
    finally:
        loop.remove_reader(descriptor)
        os.close(descriptor)


def children(pid: int) -> list[int]:
    """Return the numbers of a process's children."""
    try:
        return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii").split()]
    except (FileNotFoundError, ProcessLookupError):
        return []


def program(pid: int) -> str | None:
    """Return the short name of the program that a process runs; None where it has ended."""
    try:
        return Path(f"/proc/{pid}/comm").read_text(encoding="utf-8", errors="replace").rstrip("\n")
    except (FileNotFoundError, ProcessLookupError):
        return None


def namespace_members(init: Identity) -> list[Identity]:
    """Return the processes of the pid namespace that ``init`` is the first of, itself last."""
    namespace = _namespace(init.pid)
    if namespace is None or not is_alive(init):
        return []
    others = [pid for pid in _pids() if pid != init.pid and _namespace(pid) == namespace]
    return [*filter(None, map(identify, others)), init]


def is_on_host(pid: int) -> bool:
    """Whether a process is in no sandbox: its pid namespace is the server's."""
    return len(_numbers(pid)) == 1


def marked_processes(marker: str) -> list[Identity]:
    """Return bubblewrap's own processes for the sandbox with this marker, however the server lost sight of them.

    Those are on the host itself, or the first of their pid namespace. What runs inside can be neither, so it cannot
    pass for one by setting the same variable.
    """
    wanted = f"{MARKER}={marker}".encode()
    found = []
    for pid in _pids():
        try:
            variables = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
        except OSError:
            continue
        if wanted in variables and (is_on_host(pid) or _is_first(pid)) and (process := identify(pid)) is not None:
            found.append(process)
    return found


def _pids() -> Iterator[int]:
    return (int(path.name) for path in Path("/proc").iterdir() if path.name.isdigit())


def _namespace(pid: int) -> str | None:
    try:
        return str(Path(f"/proc/{pid}/ns/pid").readlink())
    except OSError:
        return None


def _is_first(pid: int) -> bool:
    return _numbers(pid)[-1:] == ["1"]


def _numbers(pid: int) -> list[str]:
    """Return a process's numbers in all pid namespaces that it is in, from ours inwards."""
    return next((line.split()[1:] for line in _status(pid) if line.startswith("NSpid:")), [])


def _pending(pid: int, number: signal.Signals) -> bool:
    """Whether a signal has been sent to a process that it has not taken yet."""
    pending = (int(line.split()[1], 16) for line in _status(pid) if line.startswith(("SigPnd:", "ShdPnd:")))
    return any(signals >> (number - 1) & 1 for signals in pending)


def _status(pid: int) -> list[str]:
    try:
        return Path(f"/proc/{pid}/status").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []


class _Stat(NamedTuple):
    state: str
    flags: int
    started: int


def _stat(pid: int) -> _Stat | None:
    """Read the fields after the program's name, which may hold anything."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return _Stat(fields[0].decode(), int(fields[6]), int(fields[19]))
