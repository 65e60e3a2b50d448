"""The directories of environments on disk.

Below the root: ``environments/<handle>`` with ``meta.json``, ``output.log`` and ``layer/upper`` (all that the
environment has written); ``trash`` for what is being removed; ``snapshots``. A directory gets its final name only once
its record is in it, so whatever has a handle for a name has a record.
"""

from __future__ import annotations

import os
import secrets
from typing import TYPE_CHECKING, Final

import msgspec

from thunderagent_core.environments.base import LABEL_INSTALLATION, ProviderError, ProviderUnavailableError
from thunderagent_core.environments.process.files import sync_directory, write_whole
from thunderagent_core.environments.process.records import Record

if TYPE_CHECKING:
    from pathlib import Path

_PRIVATE: Final = 0o700
_ENTERABLE: Final = 0o755
"""What sandboxes' users must be able to enter; what is above it is private."""

_DRAFT: Final = ".new-"
_SEPARATOR: Final = "~"
"""Between a handle and what makes the name of its trash or draft unique. No handle contains it."""

_LONGEST_HANDLE: Final = 200


class Store:
    """Directories of one installation. Its methods block for as long as the disk does.

    Args:
        root: directory that belongs to it alone; made where it does not exist.
        installation: whose environments these are; their handles begin with its name.
        owner: user and group that the environments' files belong to; None: whoever runs the server.
    """

    def __init__(self, root: Path, installation: str, owner: int | None) -> None:
        self._environments = root / "environments"
        self._trash = root / "trash"
        self._prefix = f"thunder-{installation}-"
        self._installation = installation
        self._owner = owner

    def open(self) -> None:
        """Make the directories that hold the others."""
        for path in (self._environments, self._trash):
            path.mkdir(mode=_PRIVATE, parents=True, exist_ok=True)

    def environment_id(self, handle: str) -> str:
        """Return the id that a handle ends with. Raises ProviderError where the handle cannot be one of ours."""
        known = handle.startswith(self._prefix) and len(self._prefix) < len(handle) <= _LONGEST_HANDLE
        if not known or not all(letter.isalnum() or letter in "-_." for letter in handle):
            raise ProviderError(f"{handle!r} is no handle of this installation", code="not_ours", permanent=True)
        return handle[len(self._prefix) :]

    def directory(self, handle: str) -> Path:
        """Return where an environment's files are."""
        self.environment_id(handle)
        return self._environments / handle

    def layer(self, handle: str) -> Path:
        """Return the directory that holds ``upper`` and, for an overlay, its ``work``."""
        return self.directory(handle) / "layer"

    def upper(self, handle: str) -> Path:
        """Return the directory that holds all that an environment has written."""
        return self.layer(handle) / "upper"

    def log(self, handle: str) -> Path:
        """Return the file with the output of the main program, and of bubblewrap while it starts."""
        return self.directory(handle) / "output.log"

    def read(self, handle: str) -> Record | None:
        """Return an environment's record; None where it is certain that there is no such environment.

        Raises:
            ProviderUnavailableError: it cannot be read just now.
            ProviderError: it is damaged, or not ours.
        """
        directory = self.directory(handle)
        try:
            content = (directory / "meta.json").read_bytes()
        except FileNotFoundError:
            if self._environments.is_dir() and not directory.exists():
                return None
            raise ProviderUnavailableError(f"{directory} cannot be read: part of it is missing") from None
        except OSError as error:
            raise ProviderUnavailableError(f"{directory} cannot be read: {error}") from error
        return self._decode(content, handle)

    def _decode(self, content: bytes, handle: str) -> Record:
        try:
            record = msgspec.json.decode(content, type=Record)
        except msgspec.DecodeError as error:
            raise ProviderError(f"the record of {handle} is damaged: {error}", code="not_ours") from None
        if record.labels.get(LABEL_INSTALLATION) != self._installation:
            raise ProviderError(f"{handle} carries another label", code="not_ours", permanent=True)
        return record

    def write(self, record: Record) -> None:
        """Make a record durable, in place of the last one."""
        write_whole(self.directory(record.handle) / "meta.json", msgspec.json.encode(record))

    def begin(self, record: Record) -> None:
        """Make an environment's directory, with its record, durable."""
        draft = self._environments / f"{_DRAFT}{record.handle}{_SEPARATOR}{secrets.token_hex(4)}"
        draft.mkdir(mode=_PRIVATE)
        write_whole(draft / "meta.json", msgspec.json.encode(record))
        draft.rename(self.directory(record.handle))
        sync_directory(self._environments)

    def clear_layer(self, handle: str) -> None:
        """Make the directories for files anew. Those of an attempt that did not end must have been removed."""
        layer = self.layer(handle)
        for path in (layer, layer / "upper", layer / "work"):
            path.mkdir()
            path.chmod(_ENTERABLE)
            if self._owner is not None:
                os.chown(path, self._owner, self._owner)

    def discard(self, handle: str) -> list[Path]:
        """Take an environment out of sight, and return all that is to be removed of it from now or earlier."""
        directory = self.directory(handle)
        if directory.exists():
            directory.rename(self._trash / f"{handle}{_SEPARATOR}{secrets.token_hex(4)}")
            sync_directory(self._environments)
        return self._remnants(handle)

    def handles(self) -> set[str]:
        """Return every handle of which something exists, remnants of half-made and half-removed ones included."""
        found = set()
        for directory in (self._environments, self._trash):
            for entry in directory.iterdir():
                handle = entry.name.removeprefix(_DRAFT).split(_SEPARATOR)[0]
                if handle.startswith(self._prefix):
                    found.add(handle)
        return found

    def _remnants(self, handle: str) -> list[Path]:
        beginnings = (f"{_DRAFT}{handle}{_SEPARATOR}", f"{handle}{_SEPARATOR}")
        places = (self._environments, self._trash)
        return [path for place in places for path in place.iterdir() if path.name.startswith(beginnings)]
