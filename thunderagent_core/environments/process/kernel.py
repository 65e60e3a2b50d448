"""System calls that Python 3.11 does not offer. Used in the spawner and its children only, which have one thread."""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import signal
from typing import Final

NEW_MOUNTS: Final = 0x00020000
NEW_UTS: Final = 0x04000000
NEW_IPC: Final = 0x08000000
NEW_USER: Final = 0x10000000
NEW_PID: Final = 0x20000000
NEW_NETWORK: Final = 0x40000000

MOUNT_PRIVATE: Final = 0x40000 | 0x4000
"""Recursively: nothing that is mounted from here on shows elsewhere."""

_CLONE_PARENT: Final = 0x8000
_CLONE: Final = {"x86_64": 56, "aarch64": 220}
_CAPSET: Final = {"x86_64": 126, "aarch64": 91}
_OPEN_TREE: Final = 428
_MOVE_MOUNT: Final = 429
_MOUNT_SETATTR: Final = 442

_AT_FDCWD: Final = -100
_AT_EMPTY_PATH: Final = 0x1000
_OPEN_TREE_CLONE: Final = 1
_MOVE_MOUNT_F_EMPTY_PATH: Final = 4
_MOUNT_ATTR_IDMAP: Final = 0x00100000

_PR_SET_DUMPABLE: Final = 4
_PR_CAPBSET_DROP: Final = 24
_PR_SET_CHILD_SUBREAPER: Final = 36
_PR_SET_NO_NEW_PRIVS: Final = 38
_PR_CAP_AMBIENT: Final = 47
_PR_CAP_AMBIENT_CLEAR_ALL: Final = 4
_HIGHEST_CAPABILITY: Final = 63
_CAPABILITY_VERSION: Final = 0x20080522


class _MountAttributes(ctypes.Structure):
    _fields_ = (
        ("attr_set", ctypes.c_uint64),
        ("attr_clr", ctypes.c_uint64),
        ("propagation", ctypes.c_uint64),
        ("userns_fd", ctypes.c_uint64),
    )


class Kernel:
    """Each method raises OSError where the kernel refuses."""

    def __init__(self) -> None:
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._machine = platform.machine()

    def unshare(self, flags: int) -> None:
        """Give this process new namespaces of the kinds in ``flags``."""
        self._check(self._libc.unshare(flags))

    def setns(self, fd: int, flags: int) -> None:
        """Join the namespaces of the kinds in ``flags`` of the process that a pidfd stands for (Linux 5.8)."""
        self._check(self._libc.setns(fd, flags))

    def mount(self, source: str, target: str, kind: str | None, flags: int, options: str | None = None) -> None:
        """Mount a file system, or bind or change what is mounted, as ``flags`` say."""
        texts = [text and text.encode() for text in (source, target, kind, options)]
        self._check(self._libc.mount(texts[0], texts[1], texts[2], ctypes.c_ulong(flags), texts[3]))

    def copy_mount(self, path: str, owner: int | None = None) -> int:
        """Return a descriptor of a copy of what is mounted at a path, to be attached elsewhere (Linux 5.2).

        Args:
            path: a directory or file.
            owner: a user namespace; files in the copy belong to whom it maps their owners to (Linux 5.12).
        """
        tree = self._call(_OPEN_TREE, _AT_FDCWD, path.encode(), _OPEN_TREE_CLONE | os.O_CLOEXEC)
        if owner is None:
            return tree
        wanted = _MountAttributes(_MOUNT_ATTR_IDMAP, 0, 0, owner)
        size = ctypes.c_size_t(ctypes.sizeof(wanted))
        try:
            self._call(_MOUNT_SETATTR, tree, b"", _AT_EMPTY_PATH, ctypes.byref(wanted), size)
        except OSError:
            os.close(tree)
            raise
        return tree

    def attach_mount(self, tree: int, path: str) -> None:
        """Attach what ``copy_mount`` returned at a path."""
        self._call(_MOVE_MOUNT, tree, b"", _AT_FDCWD, path.encode(), _MOVE_MOUNT_F_EMPTY_PATH)

    def fork_sibling(self) -> int:
        """Fork a child of this process's parent, as a process that entered a pid namespace must to be waited for."""
        return self._call(self._number(_CLONE), ctypes.c_ulong(_CLONE_PARENT | signal.SIGCHLD), None, None, None, None)

    def adopt_orphans(self) -> None:
        """Become the parent of descendants whose own parent ends."""
        self._check(self._libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0))

    def hide(self) -> None:
        """Keep everybody but the host's administrator from tracing this process and reading its descriptors.

        It holds until the next program is executed.
        """
        self._check(self._libc.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0))

    def give_up_bounding_set(self) -> None:
        """Empty the set of capabilities that programs could ever gain. Needs CAP_SETPCAP."""
        for capability in range(_HIGHEST_CAPABILITY + 1):
            if self._libc.prctl(_PR_CAPBSET_DROP, capability, 0, 0, 0) != 0:
                if ctypes.get_errno() == errno.EINVAL:
                    return  # beyond the last capability of this kernel
                self._check(-1)

    def give_up_capabilities(self) -> None:
        """Drop every capability, and rule out gaining any by executing a program."""
        self._libc.prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0)
        header = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION, 0)
        self._call(self._number(_CAPSET), ctypes.byref(header), ctypes.byref((ctypes.c_uint32 * 6)()))
        self._check(self._libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))

    def _number(self, numbers: dict[str, int]) -> int:
        if self._machine not in numbers:
            raise OSError(errno.ENOSYS, f"no system call numbers for {self._machine}")
        return numbers[self._machine]

    def _call(self, number: int, *arguments: object) -> int:
        return self._check(self._libc.syscall(ctypes.c_long(number), *arguments))

    def _check(self, result: int) -> int:
        if result < 0:
            code = ctypes.get_errno()
            raise OSError(code, os.strerror(code))
        return result
