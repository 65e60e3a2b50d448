"""What an installation has on a daemon: containers in any state, volumes that outlived theirs, snapshots."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from thunderagent_core.environments.base import Found, Kind, Liveness, ProviderError
from thunderagent_core.environments.docker.daemon import filter_text
from thunderagent_core.environments.docker.errors import VOLUME_GONE
from thunderagent_core.environments.docker.inspection import liveness_of
from thunderagent_core.environments.docker.marks import LABEL_HANDLE, LABEL_SNAPSHOT, environment_id

if TYPE_CHECKING:
    from collections.abc import Mapping

    from thunderagent_core.environments.docker.daemon import Daemon
    from thunderagent_core.environments.docker.marks import Marks
    from thunderagent_core.environments.docker.snapshots import Snapshots


class Remnants:
    """Finds what carries our label.

    Args:
        marks: of our installation.
        snapshots: its snapshots.
    """

    def __init__(self, marks: Marks, snapshots: Snapshots) -> None:
        self._marks = marks
        self._snapshots = snapshots

    async def survey(self, daemon: Daemon) -> list[Found]:
        """Return all of it. Volumes without a container stand for an environment that is GONE but for them.

        Raises as ``Daemon.ask``.
        """
        found = {entry.name: entry for entry in map(_environment, await self._containers(daemon))}
        for volume in await self._volumes(daemon):
            labels = volume["Labels"]
            remnant = Found(Kind.ENVIRONMENT, labels.get(LABEL_HANDLE, ""), environment_id(labels), Liveness.GONE)
            found.setdefault(remnant.name, remnant)
        images = await self._snapshots.list(daemon)
        snapshots = {image["Labels"][LABEL_SNAPSHOT]: environment_id(image["Labels"]) for image in images}
        return [*found.values(), *(Found(Kind.SNAPSHOT, name, owner) for name, owner in snapshots.items())]

    async def drop_volumes(self, daemon: Daemon, handle: str) -> None:
        """Remove the volumes of a container that has gone, where somebody else removed it without them.

        Raises as ``Daemon.ask``.
        """
        for volume in await self._volumes(daemon, handle=handle):
            try:
                await _drop_volume(daemon, volume["Name"])
            except ProviderError as error:
                if error.code != VOLUME_GONE:
                    raise

    async def _containers(self, daemon: Daemon) -> list[Any]:
        filters = filter_text(self._marks.search())
        containers = await daemon.ask(lambda docker: docker.containers.list(all=True, filters=filters))
        return [container for container in containers if self._owns(container)]

    def _owns(self, container: Any) -> bool:
        return any(self._marks.owns_container(container["Labels"], name.strip("/")) for name in container["Names"])

    async def _volumes(self, daemon: Daemon, **search: str) -> list[Mapping[str, Any]]:
        filters = self._marks.search(**search)
        answer = await daemon.ask(lambda docker: docker.volumes.list(filters=filters))  # type: ignore[no-untyped-call]
        return answer["Volumes"] or []


async def _drop_volume(daemon: Daemon, name: str) -> None:
    volume = await daemon.ask(lambda docker: docker.volumes.get(name))  # type: ignore[no-untyped-call]
    await daemon.act(lambda _: volume.delete())


def _environment(container: Any) -> Found:
    """Return the entry for a container in the daemon's list."""
    labels = container["Labels"]
    return Found(Kind.ENVIRONMENT, labels[LABEL_HANDLE], environment_id(labels), liveness_of(container["State"]))
