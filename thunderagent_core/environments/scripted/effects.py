"""What a scripted provider does to its world, one effect at a time."""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING, Final

from thunderagent_core.environments.base import LABEL_INSTALLATION, Liveness, Place, ProviderError, Sighting
from thunderagent_core.environments.scripted.files import Files
from thunderagent_core.environments.scripted.members import VARIABLE, signal_members, stop_members
from thunderagent_core.environments.scripted.process import LocalProcess
from thunderagent_core.environments.scripted.world import Box, Snapshot

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from thunderagent_core.environments.base import Plan
    from thunderagent_core.environments.scripted.world import ScriptedWorld

_PATH: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


class Effects:
    """The hands of one installation in a world. Everything raises ProviderError where it is not ours.

    Args:
        world: what there is.
        installation: whose label is needed to touch anything.
    """

    def __init__(self, world: ScriptedWorld, installation: str) -> None:
        self._world = world
        self._installation = installation

    def ours(self, labels: Mapping[str, str]) -> bool:
        """Whether something may be touched."""
        return labels.get(LABEL_INSTALLATION) == self._installation

    def box(self, place: Place) -> Box | None:
        """Return an environment, None where there is none."""
        box = self._world.boxes.get(place)
        if box is not None and not self.ours(box.labels):
            raise ProviderError(f"{place.handle} is not ours", code="name_taken", permanent=True)
        return box

    def need(self, place: Place, *liveness: Liveness) -> Box:
        """Return an environment that must be there, and in one of these states if any are given."""
        box = self.box(place)
        if box is None:
            raise ProviderError(f"there is no {place.handle}", code="environment_gone", permanent=True)
        if liveness and box.liveness not in liveness:
            raise ProviderError(f"{place.handle} is {box.liveness}", code=f"environment_{box.liveness}")
        return box

    def kept(self, endpoint: str, name: str) -> Snapshot | None:
        """Return a snapshot, None where there is none."""
        kept = self._world.snapshots.get((endpoint, name))
        if kept is not None and not self.ours(kept.labels):
            raise ProviderError(f"{name} is not ours", code="not_ours", permanent=True)
        return kept

    def make(self, plan: Plan) -> None:
        """Make an environment that does not run yet, unless it is there."""
        if self.box(plan.place) is not None:
            return
        images, wanted = self._world.images, plan.spec.image
        files = Files()
        if plan.snapshot is not None:
            kept = self.kept(plan.place.endpoint, plan.snapshot)
            if kept is None or not kept.whole:
                raise ProviderError(f"no snapshot {plan.snapshot!r}", code="snapshot_not_found", permanent=True)
            files = kept.files.copy()
        elif wanted is None:
            if images is not None and wanted not in images:
                raise no_image(wanted)
        elif (plan.place.endpoint, wanted) not in self._world.stored_images:
            raise no_image(wanted)
        self._world.boxes[plan.place] = Box(
            place=plan.place,
            labels=dict(plan.labels),
            spec=plan.spec,
            wanted_ports={port: plan.ports.get(port, 0) for port in plan.spec.ports},
            files=files,
        )
        self._world.record("made", plan.place)

    async def run(self, place: Place) -> Sighting:
        """Let an environment run, whatever keeps it from that."""
        box = self.need(place)
        if box.liveness is Liveness.STOPPED:
            self._world.start(box)
        self.thaw(place)
        return self.sighting(box)

    def sighting(self, box: Box) -> Sighting:
        """Return what is certain of an environment."""
        return Sighting(box.liveness, ports=dict(box.ports))

    async def freeze(self, place: Place) -> None:
        """Stop all processes of an environment."""
        box = self.need(place, Liveness.ALIVE, Liveness.FROZEN)
        if box.spawned:
            await stop_members(box.token)
        if box.liveness is Liveness.ALIVE:
            box.liveness = Liveness.FROZEN
            self._world.record("frozen", place)

    def thaw(self, place: Place) -> None:
        """Let them go on."""
        box = self.need(place, Liveness.ALIVE, Liveness.FROZEN)
        if box.liveness is Liveness.FROZEN:
            box.liveness = Liveness.ALIVE
            if box.spawned:
                signal_members(box.token, signal.SIGCONT)
            self._world.record("thawed", place)

    async def spawn(
        self, place: Place, command: Sequence[str], env: Mapping[str, str], workdir: str | None
    ) -> LocalProcess:
        """Start a process of this machine that stands for one inside."""
        box = self.need(place, Liveness.ALIVE)
        assert box.spec is not None  # noqa: S101 - only foreign ones have none
        root = box.files.directory()
        (root / box.spec.workdir.lstrip("/")).mkdir(parents=True, exist_ok=True)
        directory = root / (workdir or box.spec.workdir).lstrip("/")
        if not directory.is_dir():
            raise ProviderError(f"no directory {workdir!r}", code="spawn_failed", permanent=True)
        words = [*self._world.shell, *command[1:]] if command[0] == "/bin/sh" else command
        box.spawned = True
        own = {"PATH": os.environ.get("PATH", _PATH), "PWD": str(directory), "HOME": str(root)}
        variables = {**own, **env, VARIABLE: box.token}
        return await LocalProcess.start(words, variables, str(directory))

    async def stop(self, place: Place) -> None:
        """Stop an environment, if it is there, with all its processes."""
        if (box := self.box(place)) is not None:
            box.liveness = Liveness.STOPPED
            box.ports.clear()
            await self._world.end_processes(box)

    def remove(self, place: Place) -> None:
        """Remove an environment, if it is there, with its files."""
        if (box := self.box(place)) is not None:
            del self._world.boxes[place]
            box.files.remove()
            self._world.record("destroyed", place)

    def begin_snapshot(self, place: Place, name: str, labels: Mapping[str, str]) -> None:
        """Begin a snapshot, in place of what had that name."""
        self.need(place)
        if (old := self.kept(place.endpoint, name)) is not None:
            old.files.remove()
        self._world.snapshots[place.endpoint, name] = Snapshot(labels=dict(labels))

    def finish_snapshot(self, place: Place, name: str) -> None:
        """Fill a snapshot that was begun."""
        files = self.need(place).files.copy()
        kept = self._world.snapshots[place.endpoint, name]
        kept.files, kept.whole = files, True
        self._world.record("snapshotted", Place(place.endpoint, name))

    def drop_snapshot(self, endpoint: str, name: str) -> None:
        """Remove a snapshot, if it is there."""
        if (kept := self.kept(endpoint, name)) is not None:
            kept.files.remove()
            del self._world.snapshots[endpoint, name]
            self._world.record("dropped", Place(endpoint, name))

    def drop_image(self, endpoint: str, image: str) -> None:
        """Remove an image, if it is there, unless an environment of anybody uses it."""
        for box in self._world.boxes.values():
            if box.place.endpoint == endpoint and box.spec is not None and box.spec.image == image:
                raise ProviderError(f"{box.place.handle} uses {image}", code="image_in_use")
        if self._world.stored_images.pop((endpoint, image), None) is not None:
            self._world.record("image removed", Place(endpoint, image))


def no_image(image: str | None) -> ProviderError:
    """Return what is raised for an image that does not exist."""
    return ProviderError(f"no image {image!r}", code="image_not_found", permanent=True)
