"""What may be asked of the manager without changing anything."""

from __future__ import annotations

from typing import TYPE_CHECKING

from thunderagent_core.environments.manager.images import image_references
from thunderagent_core.environments.manager.views import EnvironmentView, view_of

if TYPE_CHECKING:
    from collections import Counter
    from collections.abc import Callable

    from thunderagent_core.environments.manager.kit import Kit
    from thunderagent_core.environments.manager.parts import Parts
    from thunderagent_core.environments.manager.record import Record
    from thunderagent_core.environments.manager.records import Records
    from thunderagent_core.environments.manager.statistics import Snapshot


class Looking:
    """The manager's half that only looks; see ``Manager``."""

    _records: Records
    _parts: Parts
    _kit: Kit

    def knows(self, program_id: str) -> bool:
        """Whether a live program of this id is on record, or is being recorded."""
        return program_id in self._records.programs or self._parts.declaring.busy(program_id)

    def on_change(self, listener: Callable[[str | None], None]) -> None:
        """Have a listener called with a program's id after each change of one of its environments."""

        def tell(record: Record) -> None:
            listener(None if record.program is None else record.program.row.id)

        self._records.listeners.append(tell)

    def views(self, program_id: str) -> list[EnvironmentView]:
        """Return a program's environments, those included that are on their way out."""
        members = self._records.members(program_id)
        return [self._view(record) for record in sorted(members, key=lambda one: (one.row.created_at, one.row.name))]

    def all_views(self) -> list[EnvironmentView]:
        """Return every environment that is not gone, warm and quarantined ones included."""
        positions = self._parts.creation.positions()
        return [view_of(record, positions.get(record.id)) for record in self._records.environments.values()]

    def image_references(self) -> Counter[tuple[str, str]]:
        """Return how often each image is needed, by provider and reference; one that is not in it may go."""
        return image_references(self._records, self._kit.settings, self._kit.image_key)

    def statistics(self) -> Snapshot:
        """Return the numbers for metrics."""
        return self._parts.snapshot(self._kit)

    def _view(self, record: Record) -> EnvironmentView:
        return view_of(record, self._parts.creation.position(record))
