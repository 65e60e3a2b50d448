"""Control groups, version 1 and 2: limits, freezing, and which processes belong to a sandbox.

Where the host lets us make none, limits are those of single processes: a sandbox may then use more memory with many
processes, and as much processor time as there is.
"""

from __future__ import annotations

import contextlib
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from thunderagent_core.environments.spec import EnvironmentSpec

_CONTROLLERS: Final = frozenset({"memory", "pids", "cpu"})
_CONTROL: Final = "cgroup.subtree_control"
_PERIOD_US: Final = 100_000
_LEAST_QUOTA_US: Final = 1_000
_OWN_PROCESSES: Final = 1
"""Bubblewrap's outer process, which stands in the group but not in the sandbox."""


class Cgroups:
    """Control groups of one installation: one below another of its own, in each hierarchy.

    Args:
        hierarchies: directory of the installation in the hierarchy of each controller.
        unified: version 2, in which they are all the same directory.
    """

    def __init__(self, hierarchies: Mapping[str, Path], *, unified: bool) -> None:
        self._hierarchies = dict(hierarchies)
        self._unified = unified
        self.directories: Sequence[Path] = sorted(set(hierarchies.values()))
        """Where the installation's groups are."""

    @property
    def limits(self) -> frozenset[str]:
        """Which of memory, pids and cpu are limited for a sandbox as a whole."""
        return frozenset(self._hierarchies) & _CONTROLLERS

    @property
    def can_freeze(self) -> bool:
        """Whether a sandbox can be frozen without its noticing."""
        return "freezer" in self._hierarchies

    def make(self, handle: str, spec: EnvironmentSpec) -> None:
        """Make a sandbox's groups with its limits. Idempotent. Raises OSError where the host refuses."""
        for directory in self.directories:
            if self._unified:
                _delegate(directory)
            (directory / handle).mkdir(parents=True, exist_ok=True)
        for controller, name, value in _settings(spec, unified=self._unified):
            if controller in self._hierarchies:
                path = self._hierarchies[controller] / handle / name
                if path.exists():  # not every kernel can limit swap
                    path.write_text(value, encoding="ascii")

    def entrances(self, handle: str) -> list[Path]:
        """Return the files that take a process into the groups when it writes 0."""
        return [directory / handle / "cgroup.procs" for directory in self.directories]

    def processes(self, handle: str) -> list[int]:
        """Return the numbers of all processes in a sandbox's groups."""
        found: set[int] = set()
        for path in self.entrances(handle):
            with contextlib.suppress(OSError):
                found.update(int(word) for word in path.read_text(encoding="ascii").split())
        return sorted(found)

    def set_frozen(self, handle: str, *, frozen: bool) -> None:
        """Ask for a sandbox to be frozen or thawed; ``is_frozen`` tells when it is."""
        name, values = ("cgroup.freeze", "01") if self._unified else ("freezer.state", ("THAWED", "FROZEN"))
        path = self._hierarchies["freezer"] / handle / name
        path.write_text(values[frozen], encoding="ascii")

    def is_frozen(self, handle: str) -> bool:
        """Whether all its processes are frozen. A group that is not there is not frozen."""
        name, sign = ("cgroup.events", "frozen 1") if self._unified else ("freezer.state", "FROZEN")
        try:
            text = (self._hierarchies["freezer"] / handle / name).read_text(encoding="ascii")
        except (KeyError, FileNotFoundError):
            return False
        return sign in text.splitlines()

    def remove(self, handle: str) -> bool:
        """Remove a sandbox's groups, and the installation's with the last of them; False: processes are in them."""
        for directory in self.directories:
            if not _removed(directory / handle):
                return False
            with contextlib.suppress(OSError):
                directory.rmdir()
        return True

    def handles(self) -> set[str]:
        """Return the handles for which there are groups."""
        found: set[str] = set()
        for directory in self.directories:
            with contextlib.suppress(FileNotFoundError):
                found.update(entry.name for entry in os.scandir(directory) if entry.is_dir())
        return found


def detect_cgroups(installation: str, mounts: str | None = None) -> Cgroups:
    """Return what this host lets us use, which may be nothing.

    Args:
        installation: names the groups' common parent.
        mounts: text of ``/proc/self/mountinfo``; None: that of this process.
    """
    text = mounts if mounts is not None else Path("/proc/self/mountinfo").read_text(encoding="utf-8")
    second, first = _mounted(text)
    name = f"thunder-{installation}"
    if first or second is None:
        usable = {controller: path / name for controller, path in first.items() if _usable(path / name)}
        return Cgroups(usable, unified=False)
    directory = second / name
    if not _usable(directory):
        return Cgroups({}, unified=True)
    held = _CONTROLLERS & _delegate(directory)
    with contextlib.suppress(OSError):
        directory.rmdir()
    return Cgroups({"freezer": directory, **dict.fromkeys(held, directory)}, unified=True)


def _mounted(text: str) -> tuple[Path | None, dict[str, Path]]:
    """Return where version 2 is mounted, and version 1 for each controller that is wanted."""
    second: Path | None = None
    first: dict[str, Path] = {}
    wanted = {*_CONTROLLERS, "freezer"}
    for line in text.splitlines():
        before, _, after = line.partition(" - ")
        path = Path(re.sub(r"\\([0-7]{3})", lambda code: chr(int(code[1], 8)), before.split()[4]))
        kind, *_, options = after.split()
        if kind == "cgroup2":
            second = path
        elif kind == "cgroup":
            first.update(dict.fromkeys(wanted & set(options.split(",")), path))
    return second, first


def _usable(directory: Path) -> bool:
    """Whether groups can be made there, found out by making one."""
    probe = directory / ".probe"
    try:
        directory.mkdir(exist_ok=True)
        probe.mkdir(exist_ok=True)
        probe.rmdir()
    except OSError:
        return False
    with contextlib.suppress(OSError):
        directory.rmdir()
    return True


def _delegate(directory: Path) -> set[str]:
    """Hand the controllers down to the groups in a directory, and return those that they get."""
    directory.mkdir(exist_ok=True)
    for path in (directory.parent / _CONTROL, directory / _CONTROL):
        for name in sorted(_CONTROLLERS):
            with contextlib.suppress(OSError):  # one that this host lacks or keeps
                path.write_text(f"+{name}", encoding="ascii")
    return set((directory / _CONTROL).read_text(encoding="ascii").split())


def _settings(spec: EnvironmentSpec, *, unified: bool) -> list[tuple[str, str, str]]:
    """Return controller, file and content of each limit, in the order in which they are to be written."""
    memory, pids = str(spec.memory_bytes), str(spec.pids + _OWN_PROCESSES)
    quota = max(_LEAST_QUOTA_US, round(spec.cpus * _PERIOD_US))
    if unified:
        return [
            ("memory", "memory.max", memory),
            ("memory", "memory.swap.max", "0"),
            ("pids", "pids.max", pids),
            ("cpu", "cpu.max", f"{quota} {_PERIOD_US}"),
        ]
    return [
        ("memory", "memory.limit_in_bytes", memory),
        ("memory", "memory.memsw.limit_in_bytes", memory),
        ("pids", "pids.max", pids),
        ("cpu", "cpu.cfs_period_us", str(_PERIOD_US)),
        ("cpu", "cpu.cfs_quota_us", str(quota)),
    ]


def _removed(directory: Path) -> bool:
    try:
        directory.rmdir()
    except FileNotFoundError:
        return True
    except OSError:
        return False
    return True
