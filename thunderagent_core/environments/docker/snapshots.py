"""Snapshots: images that hold the files of a container, known again by label and tag."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final

from thunderagent_core.environments.base import Liveness, Place, ProviderError
from thunderagent_core.environments.docker import errors
from thunderagent_core.environments.docker.images import drop_image, find_image
from thunderagent_core.environments.docker.inspection import layer_directories, liveness_of, status_of, volumes_of
from thunderagent_core.environments.docker.marks import LABEL_SNAPSHOT, SNAPSHOTS, snapshot_reference

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from thunderagent_core.environments.docker.containers import Containers
    from thunderagent_core.environments.docker.daemon import Daemon
    from thunderagent_core.environments.docker.marks import Marks
    from thunderagent_core.environments.docker.underway import Underway

SNAPSHOT_MISSING: Final = "snapshot_missing"


class Snapshots:
    """The snapshots of one installation.

    Args:
        marks: of our installation.
        containers: their sources.
        underway: what has to end before a snapshot or its source is removed.
    """

    def __init__(self, marks: Marks, containers: Containers, underway: Underway) -> None:
        self._marks = marks
        self._containers = containers
        self._underway = underway

    async def take(self, daemon: Daemon, place: Place, name: str, labels: Mapping[str, str]) -> None:
        """Store a container's files. One that runs is paused meanwhile; it goes on though the caller is cancelled.

        Raises:
            ProviderError: ``snapshot_impossible`` where a part of the files lies in volumes, ``snapshot_too_deep``
                after about a hundred snapshots upon one another, ``disk_full``, and as ``Containers.get``.
            ProviderUnavailableError: the daemon did not answer.
        """

        async def effect() -> None:
            await self._take(daemon, place, name, labels)

        await self._underway.run(effect, place, _key(daemon, name))

    async def find(self, daemon: Daemon, name: str) -> dict[str, Any]:
        """Return the image of a snapshot. Raises as ``Daemon.ask``, and ProviderError ``snapshot_missing``."""
        image = await find_image(daemon, snapshot_reference(name))
        if image is None or not self._is(image, name):
            message = f"{daemon.url}: there is no snapshot {name} of ours"
            raise ProviderError(message, code=SNAPSHOT_MISSING, permanent=True)
        return image

    async def is_whole(self, daemon: Daemon, name: str) -> bool:
        """Whether the daemon has it, with all its layers where those can be seen. Raises as ``Daemon.ask``.

        The daemon names an image only after its last layer has been stored, so that a name means a complete one.
        """
        try:
            image = await self.find(daemon, name)
        except ProviderError as error:
            if error.code == SNAPSHOT_MISSING:
                return False
            raise
        if not image.get("RootFS", {}).get("Layers"):
            return False
        return not daemon.local or await asyncio.to_thread(_all_there, layer_directories(image))

    async def drop(self, daemon: Daemon, name: str) -> None:
        """Remove a snapshot and what older attempts have left of it. Idempotent.

        Raises as ``Daemon.ask``, and ProviderError ``image_in_use`` while a container made from it exists.
        """
        await self._underway.settle(_key(daemon, name))
        for image in await self.list(daemon, snapshot=name):
            await _drop(daemon, image, name)

    async def list(self, daemon: Daemon, **search: str) -> list[dict[str, Any]]:
        """Return the list entries of our snapshots, of all or of the one named ``snapshot``."""
        filters = self._marks.search(**search)
        images = await daemon.ask(lambda docker: docker.images.list(filters=filters))
        return [image for image in images if self._marks.owns_snapshot(image, image.get("RepoTags"))]

    def _is(self, image: Mapping[str, Any], name: str) -> bool:
        config = image.get("Config") or {}
        named = (config.get("Labels") or {}).get(LABEL_SNAPSHOT) == name
        return named and self._marks.owns_snapshot(config, image.get("RepoTags"))

    async def _take(self, daemon: Daemon, place: Place, name: str, labels: Mapping[str, str]) -> None:
        container = await self._containers.get(daemon, place.handle)
        if volumes_of(container):
            message = f"{place.handle} has volumes, and what is in them would be missing in a snapshot"
            raise ProviderError(message, code="snapshot_impossible", permanent=True)
        older = await self.list(daemon, snapshot=name)
        running = liveness_of(status_of(container)) is Liveness.ALIVE
        if running:
            await self._containers.freeze(daemon, place.handle)
        try:
            await self._commit(daemon, str(container["Id"]), name, labels)
        finally:
            if running:
                await self._containers.thaw(daemon, place.handle)
        for image in older:
            await self._drop_replaced(daemon, image, name)

    async def _drop_replaced(self, daemon: Daemon, image: Mapping[str, Any], name: str) -> None:
        """Remove one that has lost its name to a newer one. While something is based on it, it stays.

        The daemon removes it along with the last image based on it; one that containers kept is listed as ours.
        """
        try:
            await _drop(daemon, {**image, "RepoTags": []}, name)
        except ProviderError as error:
            if error.code != errors.IMAGE_IN_USE:
                raise

    async def _commit(self, daemon: Daemon, container_id: str, name: str, labels: Mapping[str, str]) -> None:
        """Make the image. Labels go into its configuration as they are; as Dockerfile lines they would be expanded."""
        config = {"Labels": self._marks.for_snapshot(name, labels)}
        await daemon.act(
            lambda docker: docker.containers.container(container_id).commit(
                repository=SNAPSHOTS, tag=name, config=config, pause=False
            )
        )


def _key(daemon: Daemon, name: str) -> tuple[str, str]:
    return daemon.url, name


async def _drop(daemon: Daemon, image: Mapping[str, Any], name: str) -> None:
    """Remove an image by our name for it, or, where it has no name any more, by its id."""
    reference = snapshot_reference(name)
    await drop_image(daemon, reference if reference in (image.get("RepoTags") or ()) else str(image["Id"]))


def _all_there(directories: list[Path]) -> bool:
    """Whether all exist; where this machine may not look, the daemon's word has to do."""
    try:
        for directory in directories:
            directory.stat()
    except PermissionError:
        return True
    except OSError:
        return False
    return True
