"""Image garbage collection: by reference count and least recent use, between a high and a low mark.

Only what we brought ourselves is ever removed: an image of that name was absent, we said in the ledger that we would
bring it, and what lies there now is what came then.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from dataclasses import replace
from typing import TYPE_CHECKING

from thunderagent_core.environments.base import ProviderError
from thunderagent_core.environments.images import ImageStore
from thunderagent_core.environments.ledger_errors import FencedError, LedgerError
from thunderagent_core.environments.ledger_images import ImageRow
from thunderagent_core.environments.manager.images import image_references
from thunderagent_core.environments.states import State

if TYPE_CHECKING:
    from collections.abc import Iterable

    from thunderagent_core.environments.images import StoredImage
    from thunderagent_core.environments.ledger_images import ImageKey
    from thunderagent_core.environments.manager.kit import Kit
    from thunderagent_core.environments.manager.record import Record

_LOG = logging.getLogger(__name__)


class ImageCollection:
    """Keeps the images that we brought, on each endpoint, below the marks of the settings.

    Args:
        kit: shared.
    """

    def __init__(self, kit: Kit) -> None:
        self._kit = kit
        self._records = kit.records
        self._stores = {name: one for name, one in kit.providers.items() if isinstance(one, ImageStore)}
        self._used: dict[tuple[str, str], float] = {}
        self._wake = asyncio.Event()
        kit.records.listeners.append(self._heed)

    def start(self) -> None:
        """Watch what is brought from now on, and collect."""
        for name, store in self._stores.items():
            store.watch_pulls(_Witness(self, name))
        if self._stores:
            self._kit.tasks.spawn(self._serve(), "collect images")

    @property
    def size_bytes(self) -> int:
        """What the images that we brought take, as far as it is known."""
        return sum(row.size_bytes or 0 for row in self._records.images.values())

    async def collect(self) -> None:
        """Remove what may go, where more is there than the high mark allows. Raises LedgerError."""
        await self._note_use()
        places = {(row.provider, row.endpoint) for row in self._records.images.values()}
        for provider, endpoint in sorted(places):
            if provider in self._stores:
                await self._shrink(provider, endpoint)

    async def pulling(self, key: ImageKey, *, absent: bool) -> bool:
        """See ``PullWitness.pulling``."""
        if absent:
            now = self._kit.clock()
            provider, endpoint, reference = key
            row = ImageRow(provider=provider, endpoint=endpoint, reference=reference, pulled_at=now, last_used_at=now)
            await self._records.put_image(row)
        return key in self._records.images

    async def pulled(self, key: ImageKey, stored: StoredImage | None) -> None:
        """See ``PullWitness.pulled``."""
        row = self._records.images.get(key)
        if stored is None:
            if row is not None:
                await self._records.forget_image(row)
            return
        now = self._kit.clock()
        provider, endpoint, reference = key
        came = ImageRow(
            provider=provider,
            endpoint=endpoint,
            reference=reference,
            identity=stored.identity,
            size_bytes=stored.size_bytes,
            pulled_at=now,
            last_used_at=now,
        )
        await self._records.put_image(came)
        self._kit.statistics.images_brought += 1
        self._wake.set()

    def _heed(self, record: Record) -> None:
        """Note when an image was needed last: until its environment was gone."""
        if record.state is State.GONE and record.spec.image is not None and self._records.images:
            self._used[self._kit.image_key(record.row.provider, record.spec.image)] = self._kit.clock()
            self._wake.set()

    async def _serve(self) -> None:
        while True:
            self._wake.clear()
            try:
                await self.collect()
            except FencedError:
                raise
            except LedgerError as error:
                _LOG.warning("the collection of images broke off: %s", error)
            except Exception:  # noqa: BLE001 - the next one may do better
                _LOG.exception("the collection of images failed in a way that is a bug")
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._kit.settings.reconcile_interval_s):
                    await self._wake.wait()

    def _needed(self) -> set[tuple[str, str]]:
        return set(image_references(self._records, self._kit.settings, self._kit.image_key))

    async def _note_use(self) -> None:
        """Write down for each image when it was needed last; for those that are needed, that is now."""
        used = {**self._used, **dict.fromkeys(self._needed(), self._kit.clock())}
        self._used.clear()
        later = {
            key: used[row.provider, row.reference]
            for key, row in self._records.images.items()
            if used.get((row.provider, row.reference), row.last_used_at) > row.last_used_at
        }
        if later:
            await self._records.images_used(later)

    async def _shrink(self, provider: str, endpoint: str) -> None:
        settings = self._kit.settings
        for row in self._idle(provider, endpoint):
            if row.identity is None:
                await self._settle(row)
        if settings.image_high_bytes is None or self._held(provider, endpoint) <= settings.image_high_bytes:
            return
        low = settings.image_high_bytes
        if settings.image_low_bytes is not None:
            low = min(low, settings.image_low_bytes)
        for row in self._idle(provider, endpoint):
            if self._held(provider, endpoint) <= low:
                return
            try:
                await self._remove(row)
            except ProviderError as error:  # somebody else uses it, or nobody answers
                _LOG.info("the image %s stays: %s", row.reference, error)

    def _rows(self, provider: str, endpoint: str) -> Iterable[ImageRow]:
        return [row for row in self._records.images.values() if (row.provider, row.endpoint) == (provider, endpoint)]

    def _held(self, provider: str, endpoint: str) -> int:
        return sum(row.size_bytes or 0 for row in self._rows(provider, endpoint))

    def _idle(self, provider: str, endpoint: str) -> list[ImageRow]:
        """Return what nobody needs, least recently used first."""
        needed = self._needed()
        rows = [row for row in self._rows(provider, endpoint) if (row.provider, row.reference) not in needed]
        return sorted(rows, key=lambda row: (row.last_used_at, row.reference))

    async def _settle(self, row: ImageRow) -> None:
        """Find out what became of one that was to be brought when a server, or its daemon, broke off."""
        try:
            stored = await self._stores[row.provider].stored_image(row.endpoint, row.reference)
        except ProviderError as error:
            _LOG.info("the image %s cannot be looked at: %s", row.reference, error)
            return
        if self._records.images.get(row.key) is not row or (row.provider, row.reference) in self._needed():
            return  # somebody is bringing it again
        if stored is None:
            await self._records.forget_image(row)
        else:
            await self._records.put_image(replace(row, identity=stored.identity, size_bytes=stored.size_bytes))

    async def _remove(self, row: ImageRow) -> None:
        """Remove an image that nobody needs, unless it is not what we brought. Raises ProviderError."""
        store, key = self._stores[row.provider], (row.provider, row.reference)
        stored = await store.stored_image(row.endpoint, row.reference)
        if self._records.images.get(row.key) != row or key in self._needed():
            return
        if stored is not None and stored.identity == row.identity:
            self._kit.leaving[key] = asyncio.Event()  # creations wait for it: no await since the look at who needs it
            try:
                await store.drop_image(row.endpoint, row.reference)
            finally:
                self._kit.leaving.pop(key).set()
            self._kit.statistics.images_removed += 1
            _LOG.info("removed the image %s, which nobody needs", row.reference)
        if self._records.images.get(row.key) == row and key not in self._needed():
            await self._records.forget_image(row)


class _Witness:
    """A ``PullWitness`` for one provider."""

    def __init__(self, collection: ImageCollection, provider: str) -> None:
        self._collection = collection
        self._provider = provider

    async def pulling(self, endpoint: str, image: str, *, absent: bool) -> bool:
        """See ``PullWitness``."""
        return await self._collection.pulling((self._provider, endpoint, image), absent=absent)

    async def pulled(self, endpoint: str, image: str, stored: StoredImage | None) -> None:
        """See ``PullWitness``."""
        await self._collection.pulled((self._provider, endpoint, image), stored)
