"""Warm pools: environments made ready before anybody asks, each given out exactly once."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from typing import TYPE_CHECKING

from thunderagent_core.environments.ledger_errors import FencedError, LedgerError, StaleStateError
from thunderagent_core.environments.states import State

if TYPE_CHECKING:
    from collections.abc import Callable

    from thunderagent_core.environments.ledger_rows import EnvironmentRow
    from thunderagent_core.environments.manager.creation import Creation
    from thunderagent_core.environments.manager.kit import Kit
    from thunderagent_core.environments.manager.reclamation import Reclamation
    from thunderagent_core.environments.manager.record import Record
    from thunderagent_core.environments.spec import EnvironmentSpec

_LOG = logging.getLogger(__name__)

_KEPT = frozenset({State.REQUESTED, State.PREPARING, State.READY, State.FAILED})


class Warm:
    """Keeps pools full and hands out from them.

    Args:
        kit: shared; its settings name the pools.
        creation: makes warm ones after everything that is waited for.
        reclamation: takes back those that nobody will want.
        new_row: returns the row of a new environment of a specification.
    """

    def __init__(
        self,
        kit: Kit,
        creation: Creation,
        reclamation: Reclamation,
        new_row: Callable[[EnvironmentSpec], EnvironmentRow],
    ) -> None:
        self._kit = kit
        self._creation = creation
        self._reclamation = reclamation
        self._new_row = new_row
        self._wake = asyncio.Event()
        self._promised: set[str] = set()

    def start(self) -> None:
        """Begin to fill the pools."""
        self._kit.records.listeners.append(self._noticed)
        self._kit.tasks.spawn(self._keep_full(), "keep warm pools full")

    async def hand_out(self, requested: Record) -> bool:
        """Give a warm environment in place of one that was only requested; False where there is none."""
        while (warm := self._pick(requested.row.digest)) is not None:
            self._promised.add(warm.id)
            try:
                await self._kit.records.hand_out(warm, requested)
            except StaleStateError:
                if requested.state is not State.REQUESTED or requested.id not in self._kit.records.environments:
                    return False
            else:
                self._kit.statistics.handed_out += 1
                self._wake.set()
                return True
            finally:
                self._promised.discard(warm.id)
        return False

    def has(self, digest: str) -> bool:
        """Whether there is one to hand out."""
        return self._pick(digest) is not None

    def _pick(self, digest: str) -> Record | None:
        for record in self._all():
            ready = record.state is State.READY and record.running and record.id not in self._promised
            if ready and record.row.digest == digest:
                return record
        return None

    def _all(self) -> list[Record]:
        records = self._kit.records.environments.values()
        return [record for record in records if record.row.program_key is None and record.state in _KEPT]

    def _noticed(self, record: Record) -> None:
        if record.row.program_key is None:
            self._wake.set()

    async def _keep_full(self) -> None:
        while True:
            self._wake.clear()
            try:
                await self._trim()
                await self._fill()
            except FencedError:
                raise
            except (LedgerError, StaleStateError) as error:
                _LOG.warning("the warm pools are not looked after: %s", error)
            try:
                async with asyncio.timeout(self._kit.settings.reconcile_interval_s):
                    await self._wake.wait()
            except TimeoutError:
                await self._give_up_failed()

    async def _trim(self) -> None:
        """Take back what no pool wants (any more): it belongs to nobody and was never used."""
        wanted = self._sizes()
        for record in self._all():
            wanted[record.row.digest] -= 1
            if wanted[record.row.digest] < 0 and record.id not in self._promised:
                await self._reclaim(record, "no warm pool wants it")

    async def _fill(self) -> None:
        have = Counter(record.row.digest for record in self._all())
        for pool in self._kit.settings.warm:
            for _ in range(pool.size - have[self._new_row(pool.spec).digest]):
                await self._kit.records.add(self._new_row(pool.spec))
        for record in self._all():
            if record.state is State.REQUESTED:
                self._creation.want(record)

    async def _give_up_failed(self) -> None:
        for record in self._all():
            if record.state is State.FAILED:
                await self._reclaim(record, "it could not be made")

    async def _reclaim(self, record: Record, reason: str) -> None:
        self._creation.withdraw(record)
        try:
            await self._kit.records.change(record, State.RECLAIMING, expect=record.state, reason=reason)
        except StaleStateError:
            return
        self._reclamation.begin(record)

    def _sizes(self) -> Counter[str]:
        return Counter({self._new_row(pool.spec).digest: pool.size for pool in self._kit.settings.warm})
