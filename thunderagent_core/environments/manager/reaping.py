"""What ``thunderagent reap`` shows: all that is on its way out, and why."""

from __future__ import annotations

from typing import TYPE_CHECKING

from thunderagent_core.environments.ledger_rows import SnapshotStatus
from thunderagent_core.environments.manager.views import ReapItem
from thunderagent_core.environments.states import State

if TYPE_CHECKING:
    from collections.abc import Iterator

    from thunderagent_core.environments.manager.kit import Kit
    from thunderagent_core.environments.manager.quarantine import Quarantine
    from thunderagent_core.environments.manager.reclamation import Reclamation
    from thunderagent_core.environments.manager.surveying import Survey, Surveyor


class Reaping:
    """Lists what is to be taken back, without touching it.

    Args:
        kit: shared.
        surveyor: looks at what is outside.
        quarantine: knows how long what is unknown stays.
        reclamation: knows what has to be taken back.
    """

    def __init__(self, kit: Kit, surveyor: Surveyor, quarantine: Quarantine, reclamation: Reclamation) -> None:
        self._kit = kit
        self._surveyor = surveyor
        self._quarantine = quarantine
        self._reclamation = reclamation

    async def items(self) -> list[ReapItem]:
        """Return what is on its way out, by the records and by a look at every endpoint that answers."""
        items = [*self._recorded(), *self._snapshots()]
        for survey in await self._surveyor.survey():
            items += await self._found(survey)
        return items

    def _recorded(self) -> Iterator[ReapItem]:
        for record in self._kit.records.environments.values():
            row, due_in_s = record.row, 0.0
            if record.state is State.QUARANTINED:
                due_in_s = self._quarantine.grace_left_s(row.changed_at)
            elif not self._reclamation.needed(record):
                continue
            reason = row.reason or ("not on record" if record.state is State.QUARANTINED else "half made")
            yield ReapItem(
                kind="environment",
                name=row.handle,
                provider=row.provider,
                endpoint=row.endpoint,
                reason=reason,
                due_in_s=due_in_s,
            )

    def _snapshots(self) -> Iterator[ReapItem]:
        for mine in self._kit.records.snapshots.values():
            for row in mine.values():
                unknown = row.status is SnapshotStatus.QUARANTINED
                if unknown or row.status is SnapshotStatus.DROPPING:
                    yield ReapItem(
                        kind="snapshot",
                        name=row.name,
                        provider=row.provider,
                        endpoint=row.endpoint,
                        reason="not on record" if unknown else "not needed any more",
                        due_in_s=self._quarantine.grace_left_s(row.since) if unknown else 0.0,
                    )

    async def _found(self, survey: Survey) -> list[ReapItem]:
        unknown = self._quarantine.unknown(survey)
        fates = await self._quarantine.fates(unknown)
        return [
            ReapItem(
                kind=str(one.kind),
                name=one.name,
                provider=survey.provider,
                endpoint=survey.endpoint,
                reason="remnant of one that is gone" if one.environment_id in fates else "not on record",
                due_in_s=0.0 if one.environment_id in fates else self._kit.settings.quarantine_grace_s,
            )
            for one in unknown
        ]
