"""Host ports out of a range, each leased to one environment at a time."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from thunderagent_core.environments.ledger_rows import EnvironmentRow
    from thunderagent_core.environments.manager.settings import ManagerSettings

    Key = tuple[str, str, int]


class PortPool:
    """Who leases which port on which endpoint. The ledger has the same, a little later and for good.

    Args:
        settings: the range.
        clock: seconds, for how long a bad port is avoided.
    """

    def __init__(self, settings: ManagerSettings, clock: Callable[[], float]) -> None:
        self._settings = settings
        self._clock = clock
        self._owners: dict[Key, str] = {}
        self._bad_until: dict[Key, float] = {}

    @property
    def leased(self) -> int:
        """Ports that are leased."""
        return len(self._owners)

    @property
    def size(self) -> int:
        """Ports of the range on one endpoint; 0 where the daemon chooses."""
        first = self._settings.first_port
        return 0 if first is None else self._settings.last_port - first + 1

    def fill(self, leases: Mapping[Key, str]) -> None:
        """Take in what the ledger holds."""
        self._owners.update(leases)

    def lease(self, row: EnvironmentRow, endpoint: str) -> Mapping[int, int] | None:
        """Return a host port for each port inside, those that it has where it has any; None: too few are left."""
        wanted = row.spec.ports
        if self._settings.first_port is None:
            return dict.fromkeys(wanted, 0)
        mine = [port for port in row.ports.values() if self._owners.get((row.provider, endpoint, port)) == row.id]
        free = self._free(row.provider, endpoint, len(wanted) - len(mine))
        if len(mine) + len(free) < len(wanted):
            return None
        chosen = dict(zip(wanted, [*mine, *free], strict=False))
        for port in chosen.values():
            self._owners[row.provider, endpoint, port] = row.id
        return chosen

    def spurn(self, row: EnvironmentRow) -> None:
        """Give back the ports of an environment because somebody else has one of them; avoid them for a while."""
        until = self._clock() + self._settings.bad_port_s
        for key in [key for key, owner in self._owners.items() if owner == row.id]:
            self._bad_until[key] = until
            del self._owners[key]

    def free(self, environment_id: str) -> None:
        """Give back all ports of an environment, which has been removed."""
        for key in [key for key, owner in self._owners.items() if owner == environment_id]:
            del self._owners[key]

    def _free(self, provider: str, endpoint: str, count: int) -> Sequence[int]:
        now = self._clock()
        found: list[int] = []
        first = self._settings.first_port or 0
        for port in range(first, self._settings.last_port + 1):
            if len(found) >= count:
                break
            key = provider, endpoint, port
            if self._bad_until.get(key, now) > now:
                continue
            self._bad_until.pop(key, None)
            if key not in self._owners:
                found.append(port)
        return found
