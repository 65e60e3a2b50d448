"""Arithmetic of the disk: sums over environments, never counters that could drift."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from thunderagent_core.environments.base import Room
    from thunderagent_core.environments.manager.record import Record
    from thunderagent_core.environments.manager.records import Records
    from thunderagent_core.environments.manager.settings import ManagerSettings


@dataclass(frozen=True, slots=True)
class DiskUse:
    """Bytes: reserved by environments that exist, used by them and by snapshots, and what counts of both."""

    reserved: int
    used: int
    charged: int


class Disk:
    """Says whether another environment may be made.

    Args:
        records: all environments and snapshots.
        settings: budget and floor.
    """

    def __init__(self, records: Records, settings: ManagerSettings) -> None:
        self._records = records
        self._settings = settings

    def use(self) -> DiskUse:
        """Return what counts against the budget now."""
        holding = [record.row for record in self._records.environments.values() if record.holds_disk]
        snapshots = sum(row.bytes for mine in self._records.snapshots.values() for row in mine.values())
        return DiskUse(
            reserved=sum(row.disk_reserved for row in holding),
            used=sum(row.disk_used for row in holding) + snapshots,
            charged=sum(max(row.disk_reserved, row.disk_used) for row in holding) + snapshots,
        )

    def never_fits(self, record: Record) -> bool:
        """Whether an environment is larger than the whole budget."""
        budget = self._settings.disk_budget_bytes
        return budget is not None and record.row.disk_reserved > budget

    def shortage(self, record: Record, room: Room) -> int:
        """Return by how many bytes the disk is too small for ``record`` to be made there; 0 or less: it fits."""
        if record.holds_disk:
            return 0
        need = max(record.row.disk_reserved, record.row.disk_used)
        return max(self.over_budget() + need, self.below_floor(record.row.provider, room) + need)

    def within_budget(self, record: Record) -> bool:
        """Whether the budget would allow one more of the size of ``record``."""
        return self.over_budget() + max(record.row.disk_reserved, record.row.disk_used) <= 0

    def over_budget(self) -> int:
        """Return the bytes by which the budget is exceeded; negative: so many are left."""
        budget = self._settings.disk_budget_bytes
        return -(1 << 62) if budget is None else self.use().charged - budget

    def below_floor(self, provider: str, room: Room) -> int:
        """Return by how much an endpoint would lie below the floor if everything filled its reservation."""
        promised = sum(
            max(0, record.row.disk_reserved - record.row.disk_used)
            for record in self._records.environments.values()
            if record.holds_disk and record.row.provider == provider and record.endpoint == room.endpoint
        )
        return self._settings.disk_floor_bytes + promised - room.free_disk_bytes
