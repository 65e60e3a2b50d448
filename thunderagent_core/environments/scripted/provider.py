"""The provider that talks to a scripted world. It holds nothing itself."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from thunderagent_core.environments.base import (
    LABEL_ENVIRONMENT,
    Found,
    Kind,
    Liveness,
    Place,
    ProviderError,
    ProviderUnavailableError,
    Room,
    Sighting,
)
from thunderagent_core.environments.scripted.effects import Effects, no_image
from thunderagent_core.environments.scripted.faults import How, Moment

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping, Sequence

    from thunderagent_core.environments.base import Plan
    from thunderagent_core.environments.images import PullWitness, StoredImage
    from thunderagent_core.environments.scripted.process import LocalProcess
    from thunderagent_core.environments.scripted.world import ScriptedWorld


class ScriptedProvider:
    """See ``Provider``. Processes are real ones of this machine, in a temporary directory.

    Args:
        world: what there is; several providers may share one.
        installation: whose environments it touches.
    """

    name = "scripted"

    def __init__(self, world: ScriptedWorld, *, installation: str) -> None:
        self._world = world
        self._effects = Effects(world, installation)
        self._witness: PullWitness | None = None

    async def rooms(self) -> Sequence[Room]:
        """See ``Provider.rooms``."""
        world = self._world
        async with self._operation("rooms", None):
            rooms = [
                Room(
                    endpoint=endpoint,
                    free_disk_bytes=max(0, world.disk_bytes - world.used_bytes(endpoint)),
                    environments=sum(place.endpoint == endpoint for place in world.boxes),
                )
                for endpoint in world.endpoints
                if endpoint not in world.down
            ]
            if not rooms:
                raise ProviderUnavailableError("no endpoint answers")
            return sorted(rooms, key=lambda room: -room.free_disk_bytes)

    async def create(self, plan: Plan) -> Sighting:
        """See ``Provider.create``."""
        async with self._operation("create", plan.place):
            if plan.snapshot is None and plan.spec.image is not None and self._effects.box(plan.place) is None:
                await self._bring(plan.place.endpoint, plan.spec.image)
            self._effects.make(plan)
            await self._meet("create", Moment.HALFWAY, plan.place)
            return await self._effects.run(plan.place)

    async def look(self, place: Place) -> Sighting:
        """See ``Provider.look``."""
        try:
            async with self._operation("look", place):
                box = self._effects.box(place)
                return Sighting(Liveness.GONE) if box is None else self._effects.sighting(box)
        except ProviderError:
            return Sighting(Liveness.UNKNOWN)

    async def start(self, place: Place) -> Sighting:
        """See ``Provider.start``."""
        async with self._operation("start", place):
            return await self._effects.run(place)

    async def spawn(
        self, place: Place, command: Sequence[str], *, env: Mapping[str, str] | None = None, workdir: str | None = None
    ) -> LocalProcess:
        """See ``Provider.spawn``. Paths are real ones, except for ``workdir``, which lies in the environment."""
        process: LocalProcess | None = None
        try:
            async with self._operation("spawn", place):
                process = await self._effects.spawn(place, command, env or {}, workdir)
        except BaseException:
            if process is not None:
                await process.aclose()  # nobody will ever hold its pipes
            raise
        return process

    async def freeze(self, place: Place) -> None:
        """See ``Provider.freeze``."""
        async with self._operation("freeze", place):
            await self._effects.freeze(place)

    async def thaw(self, place: Place) -> None:
        """See ``Provider.thaw``."""
        async with self._operation("thaw", place):
            self._effects.thaw(place)

    async def snapshot(self, place: Place, name: str, labels: Mapping[str, str]) -> None:
        """See ``Provider.snapshot``."""
        async with self._operation("snapshot", place):
            self._effects.begin_snapshot(place, name, labels)
            await self._meet("snapshot", Moment.HALFWAY, place)
            self._effects.finish_snapshot(place, name)

    async def snapshot_is_whole(self, endpoint: str, name: str) -> bool:
        """See ``Provider.snapshot_is_whole``."""
        async with self._operation("snapshot_is_whole", Place(endpoint, name)):
            kept = self._world.snapshots.get((endpoint, name))
            return kept is not None and self._effects.ours(kept.labels) and kept.whole

    async def drop_snapshot(self, endpoint: str, name: str) -> None:
        """See ``Provider.drop_snapshot``."""
        async with self._operation("drop_snapshot", Place(endpoint, name)):
            self._effects.drop_snapshot(endpoint, name)

    async def destroy(self, place: Place) -> None:
        """See ``Provider.destroy``."""
        async with self._operation("destroy", place):
            await self._effects.stop(place)
            await self._meet("destroy", Moment.HALFWAY, place)
            self._effects.remove(place)

    async def survey(self, endpoint: str) -> Sequence[Found]:
        """See ``Provider.survey``."""
        async with self._operation("survey", Place(endpoint, "")):
            ours = self._effects.ours
            boxes = [
                Found(Kind.ENVIRONMENT, place.handle, box.environment_id, box.liveness)
                for place, box in self._world.boxes.items()
                if place.endpoint == endpoint and ours(box.labels)
            ]
            return boxes + [
                Found(Kind.SNAPSHOT, name, kept.labels.get(LABEL_ENVIRONMENT, ""))
                for (at, name), kept in self._world.snapshots.items()
                if at == endpoint and ours(kept.labels)
            ]

    async def disk_bytes(self, place: Place) -> int | None:
        """See ``Provider.disk_bytes``."""
        async with self._operation("disk_bytes", place):
            box = self._effects.box(place)
            return None if box is None else box.files.allocated_bytes()

    def watch_pulls(self, witness: PullWitness) -> None:
        """See ``ImageStore.watch_pulls``."""
        self._witness = witness

    def image_name(self, image: str) -> str:
        """See ``ImageStore.image_name``: here every image has one name."""
        return image

    async def stored_image(self, endpoint: str, image: str) -> StoredImage | None:
        """See ``ImageStore.stored_image``."""
        async with self._operation("stored_image", Place(endpoint, image)):
            return self._world.stored_images.get((endpoint, image))

    async def drop_image(self, endpoint: str, image: str) -> None:
        """See ``ImageStore.drop_image``."""
        async with self._operation("drop_image", Place(endpoint, image)):
            self._effects.drop_image(endpoint, image)

    async def _bring(self, endpoint: str, image: str) -> None:
        """Pull an image where it is absent."""
        world, witness = self._world, self._witness
        if (endpoint, image) in world.stored_images:
            return
        if witness is not None:
            await witness.pulling(endpoint, image, absent=True)
        async with self._operation("pull", Place(endpoint, image)):
            known = world.images is None or image in world.images
            stored = world.store_image(endpoint, image) if known else None
        if witness is not None:
            await witness.pulled(endpoint, image, stored)
        if stored is None:
            raise no_image(image)

    async def deaths(self) -> AsyncIterator[Place]:
        """See ``Provider.deaths``."""
        listener = self._world.listen()
        try:
            while True:
                box = await listener.get()
                if self._effects.ours(box.labels):
                    yield box.place
        finally:
            self._world.unlisten(listener)

    async def aclose(self) -> None:
        """See ``Provider.aclose``: there is nothing to close."""

    @asynccontextmanager
    async def _operation(self, name: str, place: Place | None) -> AsyncIterator[None]:
        """Surround an effect with what is to go wrong before and after it."""
        self._world.calls[name] += 1
        await self._meet(name, Moment.BEFORE, place)
        yield
        await self._meet(name, Moment.AFTER, place)

    async def _meet(self, operation: str, moment: Moment, place: Place | None) -> None:
        await asyncio.sleep(0)  # others come in between here, and cancellation may strike
        fault = self._world.faults.take(operation, moment, "" if place is None else place.handle)
        if fault is not None:
            if fault.how is How.FORGET and place is not None:
                await self._world.vanish(place)
            await fault.strike()
        if place is not None:
            self._world.reach(place.endpoint)
