"""Putting environments aside: their files in a verified snapshot, their originals dropped. Relieves a short disk."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Final

from thunderagent_core.environments.base import ProviderError
from thunderagent_core.environments.ledger_errors import FencedError, LedgerError, StaleStateError
from thunderagent_core.environments.ledger_rows import SnapshotRow, SnapshotStatus
from thunderagent_core.environments.manager.running import can_freeze
from thunderagent_core.environments.states import State

if TYPE_CHECKING:
    from thunderagent_core.environments.base import Room
    from thunderagent_core.environments.manager.kit import Kit
    from thunderagent_core.environments.manager.placement import Placement
    from thunderagent_core.environments.manager.reclamation import Reclamation
    from thunderagent_core.environments.manager.record import Record
    from thunderagent_core.environments.manager.running import Running

_LOG = logging.getLogger(__name__)

_AT_ONCE: Final = 2
"""Snapshots taken at once to relieve the disk: each needs room of its own for a while."""

_AGAIN_S: Final = 30.0
"""An environment that could not be put aside, or would free nothing, is passed over for so many seconds."""


class Aside:
    """Snapshots environments and drops the originals.

    Args:
        kit: shared.
        placement: says when and where the disk is short.
        reclamation: drops the originals, and snapshots that are not wanted.
        running: freezes.
    """

    def __init__(self, kit: Kit, placement: Placement, reclamation: Reclamation, running: Running) -> None:
        self._kit = kit
        self._placement = placement
        placement.short.append(self.relieve)
        self._reclamation = reclamation
        self._running = running
        self._relieving: set[str] = set()
        self._not_before: dict[str, float] = {}

    def relieve(self, provider: str, room: Room, shortage: int) -> None:
        """Put aside those that have been paused longest, until ``shortage`` bytes of reservations are given back."""
        coming = sum(self._gain(self._kit.records.environments.get(one)) for one in self._relieving)
        for record in self._candidates(provider, room.endpoint):
            if coming >= shortage or len(self._relieving) >= _AT_ONCE:
                return
            coming += self._gain(record)
            self._relieving.add(record.id)
            self._kit.tasks.spawn(self._relieve(record), f"put aside {record.row.handle}")

    async def put_aside(self, record: Record, *, least_gain: int | None = None) -> bool:
        """Replace an environment by its snapshot; False where something came in between, and it lives on.

        ``least_gain``: leave it alone where fewer bytes would be given back. Raises ProviderError where the snapshot
        could not be taken; the environment lives on then, too.
        """
        async with record.lock:
            record.task = asyncio.current_task()
            try:
                return await self._put_aside(record, least_gain)
            except StaleStateError:
                return False
            finally:
                record.task = None

    async def _put_aside(self, record: Record, least_gain: int | None) -> bool:
        if record.state in {State.READY, State.IN_USE} and not record.pins:
            await self._running.freeze(record)
        if not self._is_idle(record):
            return False
        row = record.row
        provider = self._kit.provider(record.row.provider)
        size = await provider.disk_bytes(record.place)
        if least_gain is not None and (size is None or row.disk_reserved - size < least_gain):
            return False
        snapshot = self._plan(record, row.disk_used if size is None else size)
        self._check_floor(record, snapshot.bytes)
        await self._kit.records.put_snapshot(snapshot)
        try:
            await provider.snapshot(record.place, snapshot.name, self._kit.records.labels(record))
            if not await provider.snapshot_is_whole(record.row.endpoint, snapshot.name):
                raise ProviderError(f"the snapshot of {row.handle} cannot be relied on", code="snapshot_not_whole")
            # Its program may have come back meanwhile: then nothing is gained by making it wait.
            return self._is_idle(record) and await self._commit(record, snapshot)
        finally:
            if record.row.snapshot != snapshot.name:
                self._reclamation.drop(snapshot)

    async def _commit(self, record: Record, snapshot: SnapshotRow) -> bool:
        await self._kit.records.put_aside(record, snapshot)
        self._kit.statistics.put_aside += 1
        return True

    def _is_idle(self, record: Record) -> bool:
        return record.state is State.PAUSED and not record.pins

    def finish(self, record: Record) -> None:
        """Drop the original of an environment that was put aside."""
        if self._reclamation.needed(record):
            self._reclamation.begin(record)

    def _check_floor(self, record: Record, size: int) -> None:
        """Raise ProviderError where the snapshot itself would eat into the free space that has to remain."""
        room = self._placement.room(record.row.provider, record.row.endpoint)
        if room is not None and room.free_disk_bytes - size < self._kit.settings.disk_floor_bytes:
            raise ProviderError(f"too little disk is free for a snapshot of {size} bytes", code="disk_short")

    def _plan(self, record: Record, size: int) -> SnapshotRow:
        row = record.row
        return SnapshotRow(
            name=f"{row.handle}-{self._kit.token(4)}",
            environment_id=row.id,
            provider=row.provider,
            endpoint=row.endpoint,
            status=SnapshotStatus.TAKING,
            bytes=size,
        )

    def _candidates(self, provider: str, endpoint: str) -> list[Record]:
        """Return those that may be put aside, the longest paused first."""
        now = asyncio.get_running_loop().time()
        self._not_before = {one: at for one, at in self._not_before.items() if at > now}
        found = [
            record
            for record in self._kit.records.environments.values()
            if record.state is State.PAUSED
            and not record.pins
            and (record.program is None or not record.program.expected)
            and (record.row.provider, record.row.endpoint) == (provider, endpoint)
            and can_freeze(record.spec)
            and record.id not in self._relieving
            and record.id not in self._not_before
            and self._gain(record) > 0
        ]
        return sorted(found, key=lambda record: record.row.changed_at)

    def _gain(self, record: Record | None) -> int:
        """Return the bytes of reservation that would be given back, as far as the last measurement tells."""
        return 0 if record is None else record.row.disk_reserved - record.row.disk_used

    async def _relieve(self, record: Record) -> None:
        try:
            done = await self.put_aside(record, least_gain=1)
        except FencedError:
            raise
        except (ProviderError, LedgerError) as error:
            _LOG.warning("%s could not be put aside: %s", record.row.handle, error)
            done = False
        finally:
            self._relieving.discard(record.id)
        if done:
            self.finish(record)
        else:
            self._not_before[record.id] = asyncio.get_running_loop().time() + _AGAIN_S
