"""Things that carry our label and stand in no record: kept for a grace period, then taken back."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from thunderagent_core.environments.base import Kind, Liveness, Place, ProviderError
from thunderagent_core.environments.ledger_errors import LedgerError, StaleStateError
from thunderagent_core.environments.ledger_rows import EnvironmentRow, SnapshotRow, SnapshotStatus
from thunderagent_core.environments.spec import EnvironmentSpec
from thunderagent_core.environments.states import State

if TYPE_CHECKING:
    from thunderagent_core.environments.base import Found
    from thunderagent_core.environments.manager.kit import Kit
    from thunderagent_core.environments.manager.reclamation import Reclamation
    from thunderagent_core.environments.manager.record import Record
    from thunderagent_core.environments.manager.surveying import Survey

_LOG = logging.getLogger(__name__)


class Quarantine:
    """Decides about what a survey found and nobody expects there.

    Args:
        kit: shared.
        reclamation: takes back what may go.
    """

    def __init__(self, kit: Kit, reclamation: Reclamation) -> None:
        self._kit = kit
        self._records = kit.records
        self._reclamation = reclamation

    async def examine(self, survey: Survey) -> None:
        """Take in what is unknown; take back what is known to be over."""
        unknown = self.unknown(survey)
        fates = await self.fates(unknown)
        for found in unknown:
            fate = fates.get(found.environment_id)
            if fate is State.GONE:
                await self._finish(survey, found)
            elif fate is None:
                await self._take_in(survey, found)
        for found in survey.found:
            await self._heed_leftover(survey, found)

    async def fates(self, unknown: list[Found]) -> dict[str, State]:
        """Return what the ledger remembers of things that the mirror does not know."""
        if not unknown:
            return {}
        ids = {one.environment_id for one in unknown}
        return dict(await asyncio.shield(self._kit.ledger.fates(ids)))

    def unknown(self, survey: Survey) -> list[Found]:
        """Return what stands in no record, or in one that is over."""
        environments = self._records.environments
        places = {(record.row.endpoint, record.row.handle) for record in environments.values()}
        snapshots = {name for mine in self._records.snapshots.values() for name in mine}
        return [
            one
            for one in survey.found
            if (
                one.name not in snapshots
                if one.kind is Kind.SNAPSHOT
                else one.environment_id not in environments and (survey.endpoint, one.name) not in places
            )
        ]

    def grace_left_s(self, since: float) -> float:
        """Return for how many seconds something stays that was taken in at ``since``."""
        return max(0.0, since + self._kit.settings.quarantine_grace_s - self._kit.clock())

    def release_due(self) -> None:
        """Take back what has been here for the whole grace period."""
        for record in list(self._records.environments.values()):
            if record.state is State.QUARANTINED and not self.grace_left_s(record.row.changed_at):
                self._kit.tasks.spawn(self._release(record), f"reclaim {record.row.handle}")
        for mine in list(self._records.snapshots.values()):
            for row in list(mine.values()):
                if row.status is SnapshotStatus.QUARANTINED and not self.grace_left_s(row.since):
                    self._reclamation.drop(row)

    async def _release(self, record: Record) -> None:
        try:
            reason = "nobody claimed it during the grace period"
            await self._records.change(record, State.RECLAIMING, expect=State.QUARANTINED, reason=reason)
        except StaleStateError:
            return
        self._reclamation.begin(record)

    async def _finish(self, survey: Survey, found: Found) -> None:
        """Take back a remnant of an environment whose end is on record, such as one that a daemon made too late."""
        provider = self._kit.providers[survey.provider]
        try:
            async with self._kit.destruction_slot(survey.provider, survey.endpoint):
                await asyncio.shield(self._kit.ledger.check_owner())
                if found.kind is Kind.SNAPSHOT:
                    await provider.drop_snapshot(survey.endpoint, found.name)
                else:
                    await provider.destroy(Place(survey.endpoint, found.name))
        except ProviderError as error:
            _LOG.warning("the remnant %s stays for now: %s", found.name, error)
        else:
            _LOG.info("a remnant of an environment that is gone was taken back: %s", found.name)

    async def _take_in(self, survey: Survey, found: Found) -> None:
        _LOG.warning("%s on %s carries our label but is not on record", found.name, survey.endpoint or survey.provider)
        self._kit.statistics.quarantined += 1
        if found.kind is Kind.SNAPSHOT:
            row = SnapshotRow(
                name=found.name,
                environment_id=found.environment_id,
                provider=survey.provider,
                endpoint=survey.endpoint,
                status=SnapshotStatus.QUARANTINED,
            )
            await self._records.put_snapshot(row)
            return
        await self._records.add(_stray(survey, found, self._kit.token(8)))

    async def _heed_leftover(self, survey: Survey, found: Found) -> None:
        """Take back the original of an environment that the records take to be removed, after a second look."""
        record = self._records.environments.get(found.environment_id)
        if record is None or found.kind is Kind.SNAPSHOT or not _should_be_absent(record):
            return
        if record.place != Place(survey.endpoint, found.name):
            return
        async with record.lock:
            if not _should_be_absent(record):
                return
            sighting = await self._kit.providers[survey.provider].look(record.place)
            if sighting.liveness in {Liveness.GONE, Liveness.UNKNOWN} or not _should_be_absent(record):
                return
            try:
                await self._records.change(record, expect=record.state, present=True)
            except (StaleStateError, LedgerError):
                return
        self._reclamation.begin(record)


def _should_be_absent(record: Record) -> bool:
    gone = record.state in {State.FAILED, State.SNAPSHOTTED}
    return gone and not record.row.present and record.admitted is None and not record.reclaiming


def _stray(survey: Survey, found: Found, token: str) -> EnvironmentRow:
    spec = EnvironmentSpec(name="unknown", disk_bytes=0)
    return EnvironmentRow(
        id=found.environment_id or token,
        program_key=None,
        name="unknown",
        provider=survey.provider,
        endpoint=survey.endpoint,
        handle=found.name,
        spec=spec,
        digest="",
        state=State.QUARANTINED,
        present=True,
    )
