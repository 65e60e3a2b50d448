"""Starts bubblewrap: what the spawner's child does to make a sandbox. Standard library only.

Where the server is the host's administrator, the sandbox gets a user of its own that owns nothing outside: a user
namespace is made for it, and what it is to see is bound to a place that this user can reach.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import stat
from pathlib import Path
from typing import TYPE_CHECKING, Final, NoReturn, TypedDict

from thunderagent_core.environments.process import kernel as k
from thunderagent_core.environments.process.entering import ALL_FDS, join, reset_signals

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

MARKER: Final = "THUNDER_SANDBOX"
"""Environment variable by which bubblewrap's own two processes are known."""

USER_NAMESPACE_FD: Final = 3
ARGUMENTS_FD: Final = 4
INFO_FD: Final = 5
KEEP_FD: Final = 6
"""Descriptors that bubblewrap's command line speaks of. The last is the other end of the idle shell's input."""

STAGE: Final = "/sys"
"""Where the bound files are found while bubblewrap looks for them: a directory of every host that it has no use for."""

PROGRAM: Final = "bwrap"
"""What bubblewrap's processes are called."""

_SAFE_FD: Final = 64


class Binding(TypedDict):
    """Something of the host that bubblewrap is to find under another name."""

    source: str
    target: str
    owned: bool
    """Show what belongs to the host's administrator as belonging to the sandbox's user, where the kernel can."""


class LaunchRequest(TypedDict):
    """A sandbox to be started."""

    bwrap: str
    """The program."""
    command: list[str]
    """What runs inside; the options are in a descriptor."""
    marker: str
    user: int
    """The user inside."""
    host_user: int | None
    """The host's user that it stands for; None: the one that runs the server."""
    bindings: list[Binding]


def launch(kernel: k.Kernel, request: LaunchRequest, fds: Sequence[int]) -> NoReturn:
    """Become bubblewrap.

    Args:
        kernel: system calls.
        request: what to start.
        fds: arguments; where bubblewrap writes its facts to; log; standard input; what to keep open; then the files
            that take processes into control groups.
    """
    moved = [fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, _SAFE_FD) for fd in fds]
    arguments, info, log, stdin, keep, *groups = moved
    try:
        os.setsid()
        join(groups)
        places = {0: stdin, 1: log, 2: log, ARGUMENTS_FD: arguments, INFO_FD: info, KEEP_FD: keep}
        if request["host_user"] is not None:
            places[USER_NAMESPACE_FD] = _user_namespace(kernel, request["user"], request["host_user"])
            _stage(kernel, request["bindings"], request["host_user"])
            os.setgroups([])
        for target, source in places.items():
            os.dup2(source, target)
        os.closerange(KEEP_FD + 1, ALL_FDS)
        reset_signals()
        os.umask(0o022)
        os.chdir("/")
        argv = [PROGRAM, "--args", str(ARGUMENTS_FD), "--", *request["command"]]
        os.execve(request["bwrap"], argv, {MARKER: request["marker"]})  # noqa: S606
    except BaseException as error:  # noqa: BLE001 - whatever it is must be told, and nothing may run on
        for descriptor in (log, 2):  # the first may be closed by now
            with contextlib.suppress(OSError):
                os.write(descriptor, f"launch: {error}\n".encode())
                break
    os._exit(126)


def _user_namespace(kernel: k.Kernel, inside: int, outside: int) -> int:
    """Return a new user namespace with one user, in which no further ones can be made."""
    ready, tell = os.pipe()
    child = os.fork()
    if child == 0:
        _hold_user_namespace(kernel, tell)
    os.close(tell)
    try:
        if os.read(ready, 1) != b".":
            raise OSError("no user namespace can be made")
        for kind in ("uid_map", "gid_map"):
            Path(f"/proc/{child}/{kind}").write_text(f"{inside} {outside} 1")
        descriptor = os.open(f"/proc/{child}/ns/user", os.O_RDONLY)
        return fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, _SAFE_FD)
    finally:
        os.close(ready)
        os.kill(child, 9)
        os.waitpid(child, 0)


def _hold_user_namespace(kernel: k.Kernel, tell: int) -> NoReturn:
    try:
        kernel.unshare(k.NEW_USER)
        with contextlib.suppress(OSError):  # in a container /proc/sys may be read-only; then they can be made
            Path("/proc/sys/user/max_user_namespaces").write_text("0")
        os.write(tell, b".")
        while True:
            signal.pause()
    finally:
        os._exit(1)


def _stage(kernel: k.Kernel, bindings: Sequence[Binding], host_user: int) -> None:
    """Bind what bubblewrap will look for below a directory that everybody can enter, seen by no other process."""
    kernel.unshare(k.NEW_MOUNTS)
    kernel.mount("none", "/", None, k.MOUNT_PRIVATE)
    attach = [_prepare(kernel, binding, host_user) for binding in bindings]
    kernel.mount("tmpfs", STAGE, "tmpfs", 0, "mode=0755")
    for action in attach:
        action()


def _prepare(kernel: k.Kernel, binding: Binding, host_user: int) -> Callable[[], None]:
    """Open the source now, since the stage may hide it; the result attaches it."""
    source, target = binding["source"], Path(binding["target"])
    tree = _owned_copy(kernel, source, host_user) if binding["owned"] else kernel.copy_mount(source)

    def attach() -> None:
        if stat.S_ISDIR(os.fstat(tree).st_mode):
            target.mkdir(parents=True)
        else:
            target.parent.mkdir(parents=True, exist_ok=True)
            target.touch()
        kernel.attach_mount(tree, str(target))

    return attach


def _owned_copy(kernel: k.Kernel, source: str, host_user: int) -> int:
    namespace = _user_namespace(kernel, 0, host_user)
    try:
        return kernel.copy_mount(source, namespace)
    except OSError:
        return kernel.copy_mount(source)  # an older kernel or a file system that cannot do it
    finally:
        os.close(namespace)
