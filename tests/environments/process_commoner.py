"""Runs a part of the tests as somebody who is not the administrator: ``process_commoner.py USER PYTEST-ARGUMENT...``.

The interpreter may lie below a directory that only the administrator can enter. In a mount namespace of its own, that
directory is replaced by one which holds nothing but the interpreter.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

REPOSITORY = Path(__file__).parent.parent.parent
sys.path.insert(0, str(REPOSITORY))

from thunderagent_core.environments.process import kernel as k  # noqa: E402 - found by the path above

ENTERABLE = 0o001


def closed_directory(path: Path) -> Path | None:
    """Return the uppermost directory on a path that others cannot enter."""
    for directory in reversed(path.parents):
        if not directory.stat().st_mode & ENTERABLE:
            return directory
    return None


def open_way(kernel: k.Kernel, path: Path) -> None:
    """Let everybody reach a path, seen by this process and its children only."""
    closed = closed_directory(path)
    if closed is None:
        return
    tree = kernel.copy_mount(str(path))
    kernel.mount("tmpfs", str(closed), "tmpfs", 0, "mode=0755")
    path.mkdir(parents=True)
    kernel.attach_mount(tree, str(path))


def main(user: int, arguments: list[str]) -> None:
    kernel = k.Kernel()
    kernel.unshare(k.NEW_MOUNTS)
    kernel.mount("none", "/", None, k.MOUNT_PRIVATE)
    for path in dict.fromkeys((Path(sys.base_prefix).resolve(), Path(sys.prefix), REPOSITORY)):
        open_way(kernel, path)
    os.setgroups([])
    os.setresgid(user, user, user)
    os.setresuid(user, user, user)
    os.chdir(REPOSITORY)
    env = {"PATH": os.environ["PATH"], "HOME": "/nonexistent", "PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *arguments]
    os.execve(sys.executable, command, env)  # noqa: S606


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2:])
