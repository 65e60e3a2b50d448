"""Compares the ledger with what is found outside, at the start and periodically, and mends what differs."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Final

from thunderagent_core.environments.base import Kind, Liveness, Place, ProviderError
from thunderagent_core.environments.ledger_errors import FencedError, LedgerError, StaleStateError
from thunderagent_core.environments.ledger_rows import SnapshotStatus
from thunderagent_core.environments.manager.running import EXISTING
from thunderagent_core.environments.states import State

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterable, Mapping
    from typing import Any

    from thunderagent_core.environments.ledger_rows import SnapshotRow
    from thunderagent_core.environments.manager.creation import Creation
    from thunderagent_core.environments.manager.kit import Kit
    from thunderagent_core.environments.manager.quarantine import Quarantine
    from thunderagent_core.environments.manager.reclamation import Reclamation
    from thunderagent_core.environments.manager.record import Record
    from thunderagent_core.environments.manager.running import Running
    from thunderagent_core.environments.manager.surveying import Survey, Surveyor

_LOG = logging.getLogger(__name__)

_LOOKS_AT_ONCE: Final = 4
_DEATH_WINDOW_S: Final = 60.0
_FIRST_RESTART_S: Final = 0.1
_LONGEST_RESTART_S: Final = 30.0


class Reconciler:
    """Mends differences. Whatever it does could be done again: it only ever begins work that the state calls for.

    Args:
        kit: shared.
        surveyor: looks at the endpoints.
        creation: goes on with what was to be made.
        reclamation: goes on with what was to be taken back.
        running: looks at what should be alive.
        quarantine: takes in what nobody knows.
    """

    def __init__(
        self,
        kit: Kit,
        *,
        surveyor: Surveyor,
        creation: Creation,
        reclamation: Reclamation,
        running: Running,
        quarantine: Quarantine,
    ) -> None:
        self._kit = kit
        self._surveyor = surveyor
        self._records = kit.records
        self._creation = creation
        self._reclamation = reclamation
        self._running = running
        self._quarantine = quarantine
        self._looks = asyncio.Semaphore(_LOOKS_AT_ONCE)
        self._one_at_a_time = asyncio.Lock()
        self._deaths: dict[str, tuple[float, int]] = {}

    def start(self) -> None:
        """Go on where the last server stopped, and watch from now on."""
        for record in self._records.environments.values():
            if record.state is State.PREPARING:
                record.dirty = True  # nobody knows how far it got, set-up commands included
        self.resume()
        self._kit.tasks.spawn(self._periodically(), "reconcile")
        for name in self._kit.providers:
            self._kit.tasks.spawn(self._watch_deaths(name), f"watch {name}")

    def resume(self) -> None:
        """Begin all work that the ledger calls for and nobody is at."""
        for record in list(self._records.environments.values()):
            if self._reclamation.needed(record):
                self._reclamation.begin(record)
            elif record.state is State.PREPARING:
                self._creation.want(record)
        for mine in list(self._records.snapshots.values()):
            for row in list(mine.values()):
                if self._abandoned(row):
                    self._reclamation.drop(row)

    def _abandoned(self, row: SnapshotRow) -> bool:
        """Whether a snapshot is to go and nobody is at it."""
        if row.status is SnapshotStatus.QUARANTINED:
            return False
        owner = self._records.environments.get(row.environment_id)
        if owner is None:
            return True
        return row.status is not SnapshotStatus.WHOLE and owner.task is None and not owner.reclaiming

    async def run_once(self) -> None:
        """Compare everything once; what cannot be reached is left alone."""
        async with self._one_at_a_time:
            self.resume()
            surveys = await self._surveyor.survey()
            await self._compare(surveys)
            await self._measure()
            self._quarantine.release_due()
            self._creation.kick()

    async def _periodically(self) -> None:
        while True:
            try:
                await self.run_once()
            except FencedError:
                raise
            except LedgerError as error:
                _LOG.warning("reconciliation broke off: %s", error)
            except Exception:  # noqa: BLE001 - the next one may do better
                _LOG.exception("reconciliation failed in a way that is a bug")
            await asyncio.sleep(self._kit.settings.reconcile_interval_s)

    async def _compare(self, surveys: Iterable[Survey]) -> None:
        seen: dict[tuple[str, str], dict[str, Liveness]] = {}
        for survey in surveys:
            environments = {one.name: one.liveness for one in survey.found if one.kind is Kind.ENVIRONMENT}
            seen[survey.provider, survey.endpoint] = environments
            await self._quarantine.examine(survey)
        await self._check_all(self._suspicious(seen))

    def _suspicious(self, seen: Mapping[tuple[str, str], Mapping[str, Liveness]]) -> list[Record]:
        """Return those that should exist and were not seen as they should be, where anything was seen at all."""
        found = []
        for record in self._records.environments.values():
            if record.state not in EXISTING or record.lock.locked():
                continue
            there = seen.get((record.row.provider, record.row.endpoint))
            if there is None:
                continue
            liveness = there.get(record.row.handle, Liveness.GONE)
            if record.state is State.PAUSED:
                if liveness is Liveness.GONE:
                    found.append(record)
            elif liveness is not Liveness.ALIVE:
                found.append(record)
            else:
                record.running = True
        return found

    async def _check_all(self, records: Iterable[Record]) -> None:
        await asyncio.gather(*(self._bounded(self._check, record) for record in records))

    async def _bounded(self, work: Callable[..., Coroutine[Any, Any, None]], *given: object) -> None:
        async with self._looks:
            await work(*given)

    async def _check(self, record: Record) -> None:
        try:
            await self._running.check(record)
        except FencedError:
            raise
        except (ProviderError, LedgerError, StaleStateError) as error:
            _LOG.warning("%s cannot be looked at: %s", record.row.handle, error)

    # Disk

    async def _measure(self) -> None:
        """Read again how much disk each environment uses."""
        used: dict[str, int] = {}
        records = [record for record in self._records.environments.values() if record.state in EXISTING]
        await asyncio.gather(*(self._bounded(self._measure_one, record, used) for record in records))
        if used:
            await self._records.measured(used)

    async def _measure_one(self, record: Record, used: dict[str, int]) -> None:
        try:
            size = await self._kit.provider(record.row.provider).disk_bytes(record.place)
        except ProviderError:
            return  # what was measured last stays
        if size is not None and size != record.row.disk_used and record.state in EXISTING:
            used[record.id] = size

    # Deaths

    async def _watch_deaths(self, name: str) -> None:
        backoff = self._kit.backoff()
        while True:
            async for place in self._kit.providers[name].deaths():
                self._heed(name, place)
            await backoff.wait()

    def _heed(self, name: str, place: Place) -> None:
        for record in self._records.environments.values():
            if record.row.provider == name and record.place == place and record.state in EXISTING:
                self._kit.tasks.spawn(self._look_at_death(record), f"look at {record.row.handle}")
                return

    async def _look_at_death(self, record: Record) -> None:
        """Look, and where it has died before only a short while ago, wait first: it may die again and again."""
        now = asyncio.get_running_loop().time()
        at, deaths = self._deaths.get(record.id, (now, 0))
        deaths = deaths + 1 if now - at < _DEATH_WINDOW_S else 1
        self._deaths = {one: known for one, known in self._deaths.items() if now - known[0] < _DEATH_WINDOW_S}
        self._deaths[record.id] = now, deaths
        if deaths > 1:
            await asyncio.sleep(min(_LONGEST_RESTART_S, _FIRST_RESTART_S * 2**deaths))
        await self._check(record)
