"""Starts a command inside a sandbox that exists: what the spawner's child does. Standard library only.

The order is what makes it safe. Nothing of the sandbox's files is executed before every privilege is gone, and the
process can be neither traced nor inspected from inside until then.
"""

from __future__ import annotations

import json
import os
import resource
import signal
from pathlib import Path
from typing import TYPE_CHECKING, Final, NoReturn, TypedDict

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from thunderagent_core.environments.process.kernel import Kernel


ALL_FDS: Final = 1 << 20
"""Above every descriptor."""


class EnterRequest(TypedDict):
    """A command to be started in a sandbox."""

    argv: list[str]
    env: dict[str, str]
    workdir: str
    make_workdir: bool
    namespaces: int
    """Kinds to be joined, as for ``setns``."""
    user: int
    """User and group inside."""
    drop_groups: bool
    """Give up the supplementary groups, which needs the host's administrator."""
    limits: list[tuple[int, int]]
    """Resource limits, as for ``setrlimit``."""


class StartFailure(TypedDict):
    """Why a command did not start; nothing is written where it did."""

    step: str
    code: int
    text: str


def enter(kernel: Kernel, request: EnterRequest, fds: Sequence[int], tell: int) -> NoReturn:
    """Join the sandbox's namespaces, fork the command there and end.

    Args:
        kernel: system calls.
        request: what to start.
        fds: the sandbox's pidfd; where a failure is written to; standard input, output and error; then the files
            that take processes into control groups.
        tell: where the number of the new process is written to.
    """
    pidfd, failures, *rest = fds
    step = "namespaces"
    try:
        kernel.hide()
        kernel.setns(pidfd, request["namespaces"])
        child = kernel.fork_sibling()
        if child:
            os.write(tell, str(child).encode())
            os._exit(0)
        for step, action in _steps(kernel, request, rest, failures):  # noqa: B007 - told where one of them fails
            action()
    except BaseException as error:  # noqa: BLE001 - whatever it is must be told, and nothing may run on
        failure = StartFailure(step=step, code=getattr(error, "errno", None) or 0, text=str(error))
        os.write(failures, json.dumps(failure).encode())
    os._exit(127)


def _steps(
    kernel: Kernel, request: EnterRequest, fds: Sequence[int], failures: int
) -> list[tuple[str, Callable[[], object]]]:
    streams, groups = fds[:3], fds[3:]
    return [
        ("cgroup", lambda: join(groups)),
        ("session", os.setsid),
        ("privileges", lambda: _drop_privileges(kernel, request)),
        ("limits", lambda: _limit(request["limits"])),
        ("workdir", lambda: _change_directory(request)),
        ("streams", lambda: _connect(streams, failures)),
        ("command", lambda: os.execvpe(request["argv"][0], request["argv"], request["env"])),  # noqa: S606
    ]


def join(groups: Sequence[int]) -> None:
    """Take this process into control groups, by descriptors of their lists of processes."""
    for group in groups:
        os.write(group, b"0")


def reset_signals() -> None:
    """Undo what Python does to signals at its start, and the spawner for itself: programs would inherit it."""
    for number in (signal.SIGPIPE, signal.SIGXFSZ, signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())


def _drop_privileges(kernel: Kernel, request: EnterRequest) -> None:
    kernel.give_up_bounding_set()
    if request["drop_groups"]:
        os.setgroups([])
    user = request["user"]
    os.setresgid(user, user, user)
    os.setresuid(user, user, user)
    kernel.give_up_capabilities()
    os.umask(0o022)


def _limit(limits: Sequence[tuple[int, int]]) -> None:
    for kind, value in limits:
        resource.setrlimit(kind, (value, value))


def _change_directory(request: EnterRequest) -> None:
    try:
        os.chdir(request["workdir"])
    except FileNotFoundError:
        if not request["make_workdir"]:
            raise
        Path(request["workdir"]).mkdir(parents=True, exist_ok=True)
        os.chdir(request["workdir"])


def _connect(streams: Sequence[int], failures: int) -> None:
    """Keep the three streams and nothing else: whatever is open could be used by what runs next."""
    reset_signals()
    for target, source in enumerate(streams):
        os.dup2(source, target)
    os.closerange(3, failures)
    os.closerange(failures + 1, ALL_FDS)  # this one closes by itself once the program runs
