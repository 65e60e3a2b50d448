"""The files of a scripted environment: a dictionary until a process needs a real directory."""

from __future__ import annotations

import os
import shutil
import stat
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

_BLOCK_BYTES: Final = 512
"""What ``st_blocks`` counts, whatever the file system."""


class Files:
    """Files by absolute path. ``directory`` turns them into real ones, once, below a temporary directory."""

    __slots__ = ("_directory", "_memory", "ballast_bytes")

    def __init__(self, memory: Mapping[str, bytes] | None = None) -> None:
        self._memory = dict(memory or {})
        self._directory: Path | None = None
        self.ballast_bytes = 0
        """Disk that is said to be allocated beyond what the files need."""

    def directory(self) -> Path:
        """Return the directory that stands for the root of the environment."""
        if self._directory is None:
            self._directory = Path(tempfile.mkdtemp(prefix="thunder-scripted-"))
            for path, data in self._memory.items():
                self._put(self._directory, path, data)
            self._memory.clear()
        return self._directory

    def write(self, path: str, data: bytes) -> None:
        """Write one file."""
        if self._directory is None:
            self._memory[path] = data
        else:
            self._put(self._directory, path, data)

    def read(self, path: str) -> bytes | None:
        """Return the content of one file, None where there is none."""
        if self._directory is None:
            return self._memory.get(path)
        file = self._directory / path.lstrip("/")
        return file.read_bytes() if file.is_file() else None

    def copy(self) -> Files:
        """Return files of their own with the same content."""
        twin = Files(self._memory)
        twin.ballast_bytes = self.ballast_bytes
        if self._directory is not None:
            twin._directory = Path(tempfile.mkdtemp(prefix="thunder-scripted-"))
            shutil.copytree(self._directory, twin._directory, symlinks=True, ignore=_special_files, dirs_exist_ok=True)
        return twin

    def allocated_bytes(self) -> int:
        """Return the disk that they use."""
        if self._directory is None:
            return self.ballast_bytes + sum(map(len, self._memory.values()))
        return self.ballast_bytes + sum(
            os.lstat(f"{folder}/{name}").st_blocks * _BLOCK_BYTES
            for folder, _, names in os.walk(self._directory)
            for name in names
        )

    def remove(self) -> None:
        """Remove them."""
        self._memory.clear()
        if self._directory is not None:
            shutil.rmtree(self._directory, ignore_errors=True)
            self._directory = None

    @staticmethod
    def _put(directory: Path, path: str, data: bytes) -> None:
        file = directory / path.lstrip("/")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(data)


def _special_files(folder: str, names: list[str]) -> list[str]:
    """Return sockets and pipes, which cannot be copied."""
    plain = (stat.S_ISREG, stat.S_ISDIR, stat.S_ISLNK)
    modes = {name: os.lstat(f"{folder}/{name}").st_mode for name in names}
    return [name for name, mode in modes.items() if not any(test(mode) for test in plain)]
