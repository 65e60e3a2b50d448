"""The Docker provider: what the manager asks for, put into words for the right daemon."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final

from thunderagent_core.environments.base import (
    Liveness,
    ProviderError,
    ProviderUnavailableError,
    Sighting,
)
from thunderagent_core.environments.docker import images
from thunderagent_core.environments.docker.bringing import Bringing, find_stored
from thunderagent_core.environments.docker.containers import Containers
from thunderagent_core.environments.docker.daemon import Daemon, require_aiodocker
from thunderagent_core.environments.docker.deaths import Deaths, Removals
from thunderagent_core.environments.docker.disk import allocated_bytes
from thunderagent_core.environments.docker.inspection import own_directories, sighting_of
from thunderagent_core.environments.docker.marks import Marks
from thunderagent_core.environments.docker.networks import Network
from thunderagent_core.environments.docker.process import start_process
from thunderagent_core.environments.docker.references import image_name
from thunderagent_core.environments.docker.remnants import Remnants
from thunderagent_core.environments.docker.rooms import survey_rooms
from thunderagent_core.environments.docker.snapshots import Snapshots
from thunderagent_core.environments.docker.underway import Underway

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping, Sequence
    from pathlib import Path

    from thunderagent_core.environments.base import Found, Place, Plan, Process, Room
    from thunderagent_core.environments.images import PullWitness, StoredImage

DEFAULT_ENDPOINT: Final = "unix:///var/run/docker.sock"


class DockerProvider:
    """Environments as containers; a ``Provider``. Its places name daemons by their URL; empty: the only one.

    Args:
        installation: id of our installation; decides alone what is ours.
        endpoints: ``unix:///path`` or ``tcp://host:port`` of each daemon.
        timeout_s: longest time for a question, in seconds.
        effect_timeout_s: longest time for making, starting, copying or removing something, in seconds.
        pull_timeout_s: longest time for a pull or a build, in seconds.
        on_progress: told of pulls that ``create`` begins.

    Raises:
        ProviderError: ``docker_not_installed``: the client library is missing.
        ValueError: an endpoint cannot be one, or is there twice.
    """

    name = "docker"

    def __init__(
        self,
        *,
        installation: str,
        endpoints: Sequence[str] = (DEFAULT_ENDPOINT,),
        timeout_s: float = 15.0,
        effect_timeout_s: float = 120.0,
        pull_timeout_s: float = 1800.0,
        on_progress: Callable[[images.Progress], None] | None = None,
    ) -> None:
        require_aiodocker()
        if not endpoints or len(set(endpoints)) < len(endpoints):
            raise ValueError(f"needs one or more different Docker endpoints, not {list(endpoints)}")
        self._daemons = {url: Daemon(url, timeout_s=timeout_s, effect_timeout_s=effect_timeout_s) for url in endpoints}
        self._bringing = Bringing(timeout_s=pull_timeout_s, on_progress=on_progress)
        self._marks = Marks(installation)
        self._underway = Underway()
        self._network = Network(self._marks)
        self._removals = Removals()
        self._containers = Containers(self._marks, self._network, self._underway, self._removals)
        self._snapshots = Snapshots(self._marks, self._containers, self._underway)
        self._remnants = Remnants(self._marks, self._snapshots)

    async def rooms(self) -> Sequence[Room]:
        """Return the daemons that answer, best first. Raises ProviderUnavailableError where none does."""
        return await survey_rooms(list(self._daemons.values()), self._marks)

    async def create(self, plan: Plan) -> Sighting:
        """Make and start a container, pulling its image where that is absent.

        Raises:
            ProviderError: ``image_not_found``, ``image_required``, ``snapshot_missing``, ``name_taken``,
                ``port_taken``, ``mount_source_missing``, ``main_program_ended`` and others.
            ProviderUnavailableError: a part of it may have happened.
        """
        daemon = self._daemon(plan.place.endpoint)
        image = await self._image(daemon, plan)
        return await self._containers.ensure(daemon, plan, image)

    async def look(self, place: Place) -> Sighting:
        """Say what is certain. A container of this name that is not ours makes it UNKNOWN: something is wrong."""
        try:
            daemon = self._daemon(place.endpoint)
            found = await self._containers.find(daemon, place.handle)
        except ProviderError:
            return Sighting(Liveness.UNKNOWN)
        return Sighting(Liveness.GONE, daemon.host) if found is None else sighting_of(found, daemon.host)

    async def start(self, place: Place) -> Sighting:
        """Start a stopped container, thaw a frozen one. Its files are those that it had; ports are read again.

        Raises:
            ProviderError: ``environment_gone``, ``port_taken``, ``main_program_ended`` and others.
            ProviderUnavailableError: it may have started.
        """
        return await self._containers.run(self._daemon(place.endpoint), place.handle)

    async def spawn(
        self, place: Place, command: Sequence[str], *, env: Mapping[str, str] | None = None, workdir: str | None = None
    ) -> Process:
        """Start a command in a running container.

        Raises:
            ProviderError: ``environment_gone``, ``environment_stopped``, ``environment_frozen``.
            ProviderUnavailableError: it may have started.
        """
        daemon = self._daemon(place.endpoint)
        found = await self._containers.get(daemon, place.handle)
        return await start_process(daemon, str(found["Id"]), command, env, workdir)

    async def freeze(self, place: Place) -> None:
        """Pause a container. Raises ProviderError ``environment_stopped`` where it does not run."""
        await self._containers.freeze(self._daemon(place.endpoint), place.handle)

    async def thaw(self, place: Place) -> None:
        """Unpause a container. Raises ProviderError ``environment_stopped`` where it does not run."""
        await self._containers.thaw(self._daemon(place.endpoint), place.handle)

    async def snapshot(self, place: Place, name: str, labels: Mapping[str, str]) -> None:
        """Store a container's files as an image; see ``Snapshots.take``."""
        await self._snapshots.take(self._daemon(place.endpoint), place, name, labels)

    async def snapshot_is_whole(self, endpoint: str, name: str) -> bool:
        """Whether a snapshot can be relied on. Raises ProviderUnavailableError where that cannot be found out."""
        return await self._snapshots.is_whole(self._daemon(endpoint), name)

    async def drop_snapshot(self, endpoint: str, name: str) -> None:
        """Remove a snapshot. Raises ProviderError ``image_in_use`` while a container made from it exists."""
        await self._snapshots.drop(self._daemon(endpoint), name)

    async def destroy(self, place: Place) -> None:
        """Remove a container with its volumes, and our network with the last container that used it.

        Raises:
            ProviderError: ``name_taken``: the container of this name is not ours; nothing was touched.
            ProviderUnavailableError: it may still be there.
        """
        daemon = self._daemon(place.endpoint)
        await self._containers.remove(daemon, place)
        await self._remnants.drop_volumes(daemon, place.handle)
        await self._network.drop_idle(daemon)

    async def survey(self, endpoint: str) -> Sequence[Found]:
        """Return our containers in any state, remnants of them, and our snapshots."""
        return await self._remnants.survey(self._daemon(endpoint))

    async def disk_bytes(self, place: Place) -> int | None:
        """Return what a container's layer and volumes have allocated; None for a daemon on another machine."""
        daemon = self._daemon(place.endpoint)
        directories = own_directories(await self._containers.get(daemon, place.handle))
        if not directories or not daemon.local:
            return None
        return await asyncio.to_thread(allocated_bytes, directories)

    def deaths(self) -> AsyncIterator[Place]:
        """Yield containers that ended without our doing, until ``aclose``. Connections are made again for ever."""
        return Deaths(list(self._daemons.values()), self._marks, self._removals).follow()

    async def aclose(self) -> None:
        """Let what is under way end, then close connections."""
        await self._underway.aclose()
        for daemon in self._daemons.values():
            await daemon.aclose()

    # An ImageStore

    def watch_pulls(self, witness: PullWitness) -> None:
        """Report to this witness every image that is brought from now on."""
        self._bringing.witness = witness

    def image_name(self, image: str) -> str:
        """Return one name for all references that mean the same image."""
        return image_name(image)

    async def stored_image(self, endpoint: str, image: str) -> StoredImage | None:
        """Return what a daemon holds under a name. Raises ProviderUnavailableError."""
        return await find_stored(self._daemon(endpoint), image)

    async def drop_image(self, endpoint: str, image: str) -> None:
        """Remove an image, or its name where it has others; the caller knows that it brought it here. Idempotent.

        Raises ProviderError ``image_in_use`` while a container or another image is based on it.
        """
        await images.drop_image(self._daemon(endpoint), image)

    # Beyond what every provider has

    async def pull(self, endpoint: str, image: str) -> None:
        """Pull an image, or find out that it is current. Raises as ``create`` does."""
        await self._bringing.pull(self._daemon(endpoint), image)

    async def build(self, endpoint: str, context: Path, *, tag: str, dockerfile: str = "Dockerfile") -> str:
        """Build an image from a directory; it carries our label. Returns its id; see ``images.build_image``."""
        daemon, labels = self._daemon(endpoint), self._marks.for_image()
        return await self._bringing.build(daemon, context, tag=tag, labels=labels, dockerfile=dockerfile)

    async def image_tags(self, endpoint: str) -> list[str]:
        """Return the names of all images that are present. Raises ProviderUnavailableError."""
        found = await self._daemon(endpoint).ask(lambda docker: docker.images.list())
        return [tag for image in found for tag in image.get("RepoTags") or () if "<none>" not in tag]

    async def has_image(self, endpoint: str, image: str) -> bool:
        """Whether an image is present. Raises ProviderUnavailableError."""
        return await images.find_image(self._daemon(endpoint), image) is not None

    def _daemon(self, endpoint: str) -> Daemon:
        """Return the daemon that a place names. One that is not configured any more cannot be asked anything."""
        if not endpoint and len(self._daemons) == 1:
            return next(iter(self._daemons.values()))
        try:
            return self._daemons[endpoint]
        except KeyError:
            raise ProviderUnavailableError(f"no such Docker endpoint is configured: {endpoint!r}") from None

    async def _image(self, daemon: Daemon, plan: Plan) -> dict[str, Any]:
        if plan.snapshot is not None:
            return await self._snapshots.find(daemon, plan.snapshot)
        if plan.spec.image is None:
            raise ProviderError("a docker environment needs an image", code="image_required", permanent=True)
        return await self._bringing.ensure(daemon, plan.spec.image)
