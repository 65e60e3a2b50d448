"""Where an environment may be made, by what is free on each endpoint."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Container, Iterable, Mapping, Sequence

    from thunderagent_core.environments.base import Room
    from thunderagent_core.environments.manager.disk import Disk
    from thunderagent_core.environments.manager.record import Record


class Placement:
    """Remembers what was last seen of every endpoint that answered, and chooses among them.

    Args:
        disk: says what fits.
    """

    def __init__(self, disk: Disk) -> None:
        self._disk = disk
        self._rooms: dict[str, dict[str, Room]] = {}
        self.short: list[Callable[[str, Room, int], None]] = []
        """Called with a provider, one of its endpoints, and the bytes that are missing there."""

    def see(self, provider: str, rooms: Iterable[Room]) -> None:
        """Take in what is free now; where that is too little, even though nobody waits for it, say so."""
        self._rooms[provider] = {room.endpoint: room for room in rooms}
        for room in self._rooms[provider].values():
            self._announce(provider, room, max(self._disk.over_budget(), self._disk.below_floor(provider, room)))

    def room(self, provider: str, endpoint: str) -> Room | None:
        """Return what was last seen of an endpoint; None where it did not answer."""
        return self._rooms.get(provider, {}).get(endpoint)

    @property
    def free_bytes(self) -> Mapping[tuple[str, str], int]:
        """Free disk by provider and endpoint."""
        return {
            (provider, room.endpoint): room.free_disk_bytes
            for provider, rooms in self._rooms.items()
            for room in rooms.values()
        }

    def choose(self, record: Record, full: Container[str], busy: Sequence[str]) -> str | None:
        """Return the endpoint with room where least is being made, the provider's favourite first; None: none.

        ``full``: endpoints that are not to be taken. ``busy``: the endpoint of each creation under way.
        """
        provider = record.row.provider
        rooms = list(self._rooms[provider].values())
        if is_bound(record):
            rooms = [room for room in rooms if room.endpoint == record.row.endpoint]
        shortages = {room.endpoint: self._disk.shortage(record, room) for room in rooms if room.endpoint not in full}
        fitting = [endpoint for endpoint, shortage in shortages.items() if shortage <= 0]
        if fitting:
            return min(fitting, key=busy.count)
        if shortages:
            best = min(shortages, key=shortages.__getitem__)
            self._announce(provider, self._rooms[provider][best], shortages[best])
        return None

    def _announce(self, provider: str, room: Room, shortage: int) -> None:
        if shortage > 0:
            for listener in self.short:
                listener(provider, room, shortage)


def is_bound(record: Record) -> bool:
    """Whether an environment can only be made where it, or its snapshot, is."""
    return record.row.present or record.row.snapshot is not None
