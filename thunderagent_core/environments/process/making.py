"""Makes environments, step by step, each of which can be gone on from."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from thunderagent_core.environments.base import ProviderError
from thunderagent_core.environments.process.ports import take_ports
from thunderagent_core.environments.process.records import Layer, Record
from thunderagent_core.environments.process.rootfs import write_own_files
from thunderagent_core.environments.process.waiting import in_thread

if TYPE_CHECKING:
    from thunderagent_core.environments.base import Plan
    from thunderagent_core.environments.process.workshop import Workshop


class Making:
    """Makes and starts environments.

    Args:
        shop: what is needed for it.
    """

    def __init__(self, shop: Workshop) -> None:
        self._shop = shop

    async def prepare(self, plan: Plan) -> Record:
        """Make an environment's directory and files, as far as they are not made yet, and return its record.

        Raises:
            ProviderError: ``image_not_found``, ``snapshot_not_found``, or the disk refuses.
        """
        record = await in_thread(self._shop.store.read, plan.place.handle)
        if record is None:
            record = Record(
                handle=plan.place.handle,
                labels=dict(plan.labels),
                spec=plan.spec,
                ports=dict(plan.ports),
                snapshot=plan.snapshot,
            )
            await in_thread(self._shop.store.begin, record)
        return record if record.filled else await self._fill(record)

    async def start(self, record: Record) -> Record:
        """Start an environment that has stopped, and return its record.

        Raises:
            ProviderError: it did not start, or a port is taken.
        """
        shop = self._shop
        await shop.control.end(record.handle, record)
        ports = take_ports({inside: record.ports.get(inside, 0) for inside in record.spec.ports})
        shop.cgroups.make(record.handle, record.spec)
        record = msgspec.structs.replace(record, launching=True, init=None, monitor=None, ports=ports)
        await in_thread(shop.store.write, record)
        record = await shop.launchpad.launch(record, shop.cgroups.entrances(record.handle))
        shop.control.limit(record)
        await in_thread(shop.store.write, record)
        return record

    async def _fill(self, record: Record) -> Record:
        """Give an environment its files. What an earlier attempt left of them is removed first."""
        shop = self._shop
        layer = await self._layer(record)
        if await in_thread(shop.store.layer(record.handle).exists):
            await shop.tools.remove(shop.store.layer(record.handle))
        await in_thread(shop.store.clear_layer, record.handle)
        upper = shop.store.upper(record.handle)
        if record.snapshot is not None:
            await shop.snapshots.restore(record.snapshot, upper)
        else:
            image = Path(record.spec.image) if record.spec.image is not None else None
            await in_thread(write_own_files, upper, image, shop.host.user)
        record = msgspec.structs.replace(record, layer=layer, filled=True)
        await in_thread(shop.store.write, record)
        return record

    async def _layer(self, record: Record) -> Layer:
        image = record.spec.image
        if image is not None and not (image.startswith("/") and await in_thread(Path(image).is_dir)):
            text = f"{image} is not the absolute path of a root file system"
            raise ProviderError(text, code="image_not_found", permanent=True)
        layer = Layer.OVERLAY if image is not None and await self._shop.can_overlay() else Layer.BINDS
        if record.snapshot is not None:
            manifest = await self._shop.snapshots.manifest(record.snapshot)
            if (manifest.image, manifest.layer) != (image, layer):
                text = f"the snapshot {record.snapshot} lies over {manifest.image}, as {manifest.layer}"
                raise ProviderError(text, code="snapshot_impossible", permanent=True)
        return layer
