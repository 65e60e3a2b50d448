"""Snapshots: the files of an environment in one archive, with a manifest that is written last."""

from __future__ import annotations

import hashlib
import os
import secrets
from typing import TYPE_CHECKING, Final
from urllib.parse import quote, unquote

import msgspec

from thunderagent_core.environments.base import (
    LABEL_ENVIRONMENT,
    LABEL_INSTALLATION,
    Found,
    Kind,
    ProviderError,
    ProviderUnavailableError,
)
from thunderagent_core.environments.process.files import TreeTools, sync_directory, write_whole
from thunderagent_core.environments.process.records import Manifest
from thunderagent_core.environments.process.waiting import in_thread

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from thunderagent_core.environments.process.records import Record

_PRIVATE: Final = 0o700
_MANIFEST: Final = "manifest.json"
_BEGINNING: Final = "snapshot-"


class Snapshots:
    """Snapshots of one installation, each in a directory.

    Args:
        root: directory of the provider.
        installation: whose they are.
        tools: pack and unpack files.
    """

    def __init__(self, root: Path, installation: str, tools: TreeTools) -> None:
        self._directory = root / "snapshots"
        self._installation = installation
        self._tools = tools

    def open(self) -> None:
        """Make the directory that holds them."""
        self._directory.mkdir(mode=_PRIVATE, parents=True, exist_ok=True)

    async def save(self, name: str, labels: Mapping[str, str], record: Record, upper: Path) -> None:
        """Store the files below ``upper``, which must not change meanwhile. An earlier one stays until this is whole.

        Raises:
            ProviderError: the files cannot be read or stored, or the name belongs to another installation.
        """
        directory = self._path(name)
        image = record.spec.image
        manifest = Manifest(labels=dict(labels), layer=record.layer, image=image)
        if await in_thread(self._read, directory) is None:
            await in_thread(self._begin, directory, manifest)
        archive = directory / f"{secrets.token_hex(4)}.tar"
        await self._tools.pack(upper, archive)
        await in_thread(self._complete, archive, manifest)

    async def is_whole(self, name: str) -> bool:
        """Whether a snapshot is there, ours, and as it was written."""
        return await in_thread(self._verify, self._path(name))

    async def restore(self, name: str, upper: Path) -> None:
        """Put a snapshot's files into an empty directory, durably. Raises ProviderError ``snapshot_not_found``."""
        manifest = await self.manifest(name)
        await self._tools.unpack(self._path(name) / str(manifest.archive), upper)
        await self._tools.sync(upper)

    async def manifest(self, name: str) -> Manifest:
        """Return what is known of a snapshot that is finished. Raises ProviderError ``snapshot_not_found``."""
        manifest = await in_thread(self._read, self._path(name))
        if manifest is None or manifest.archive is None:
            raise ProviderError(f"there is no snapshot {name}", code="snapshot_not_found", permanent=True)
        return manifest

    async def drop(self, name: str) -> None:
        """Remove a snapshot, finished or not. Raises ProviderError where it is not ours."""
        directory = self._path(name)
        await in_thread(self._read, directory)
        drafts = await in_thread(self._drafts, directory)
        await self._tools.remove(directory, *drafts)
        await in_thread(sync_directory, self._directory)

    def found(self) -> list[Found]:
        """Return every snapshot that is there, and what is left of half-made ones."""
        found: dict[str, Found] = {}
        for path in self._directory.iterdir():
            try:
                manifest = self._read(path)
            except ProviderError:
                continue  # not ours
            name = unquote(path.name.removeprefix(_BEGINNING).split("@")[0])
            labels = manifest.labels if manifest is not None else {}
            found[name] = Found(Kind.SNAPSHOT, name, labels.get(LABEL_ENVIRONMENT, _drafted_for(path)))
        return list(found.values())

    def _path(self, name: str) -> Path:
        return self._directory / f"{_BEGINNING}{quote(name, safe='')}"

    def _drafts(self, directory: Path) -> list[Path]:
        return list(self._directory.glob(f"{directory.name}@*"))

    def _begin(self, directory: Path, manifest: Manifest) -> None:
        environment = quote(manifest.labels.get(LABEL_ENVIRONMENT, ""), safe="")
        draft = directory.with_name(f"{directory.name}@{environment}@{secrets.token_hex(4)}")
        draft.mkdir(mode=_PRIVATE)
        write_whole(draft / _MANIFEST, msgspec.json.encode(manifest))
        draft.rename(directory)
        sync_directory(self._directory)

    def _read(self, directory: Path) -> Manifest | None:
        try:
            content = (directory / _MANIFEST).read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise ProviderUnavailableError(f"{directory} cannot be read: {error}") from error
        try:
            manifest = msgspec.json.decode(content, type=Manifest)
        except msgspec.DecodeError as error:
            raise ProviderError(f"{directory} is damaged: {error}", code="not_ours") from None
        if manifest.labels.get(LABEL_INSTALLATION) != self._installation:
            raise ProviderError(f"{directory} carries another label", code="not_ours", permanent=True)
        return manifest

    def _complete(self, archive: Path, manifest: Manifest) -> None:
        """Make the archive durable, then the manifest that says so, and drop archives of earlier attempts."""
        size, digest = _digest(archive, durable=True)
        whole = msgspec.structs.replace(manifest, archive=archive.name, size_bytes=size, sha256=digest)
        write_whole(archive.with_name(_MANIFEST), msgspec.json.encode(whole))
        for path in archive.parent.iterdir():
            if path.name not in {archive.name, _MANIFEST}:
                path.unlink()

    def _verify(self, directory: Path) -> bool:
        try:
            manifest = self._read(directory)
            if manifest is None or manifest.archive is None:
                return False
            return _digest(directory / manifest.archive) == (manifest.size_bytes, manifest.sha256)
        except ProviderUnavailableError:
            raise
        except (ProviderError, FileNotFoundError):
            return False
        except OSError as error:
            raise ProviderUnavailableError(f"{directory} cannot be read: {error}") from error


def _drafted_for(path: Path) -> str:
    """Return whose snapshot this was to be, from the name that it had until its manifest was written."""
    parts = path.name.split("@")
    return unquote(parts[1]) if len(parts) > 1 else ""


def _digest(path: Path, *, durable: bool = False) -> tuple[int, str]:
    """Return length and SHA-256 of a file; ``durable``: see to it first that it outlives the host's power."""
    with path.open("rb") as file:
        if durable:
            os.fsync(file.fileno())
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        return file.tell(), digest
