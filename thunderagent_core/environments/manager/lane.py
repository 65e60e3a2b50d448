"""The queue of environments that one provider is to make."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from thunderagent_core.environments.manager.record import Record


@dataclass(slots=True, eq=False)
class Lane:
    """The queue of one provider, so that one that hangs does not hold up another.

    Args:
        provider: its name.
        waiting: in the order in which they were asked for.
        spare: warm ones, after all others.
        wake: something has changed.
    """

    provider: str
    waiting: dict[str, Record] = field(default_factory=dict)
    spare: dict[str, Record] = field(default_factory=dict)
    wake: asyncio.Event = field(default_factory=asyncio.Event)

    def in_order(self) -> Iterator[Record]:
        """Yield those that wait, first come first."""
        yield from list(self.waiting.values())
        yield from list(self.spare.values())

    def remove(self, record: Record) -> None:
        """Take one out."""
        self.waiting.pop(record.id, None)
        self.spare.pop(record.id, None)
