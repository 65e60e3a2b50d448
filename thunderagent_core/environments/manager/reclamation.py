"""Taking back what was made: environments that nobody needs, half-made ones, originals of snapshots, old snapshots.

Each is repeated until it is certain that nothing is left, however long the provider cannot be reached. What the work
amounts to is read off the environment's state, so that it can change its purpose on the way and survive a crash.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import replace
from typing import TYPE_CHECKING

from thunderagent_core.environments.base import ProviderError
from thunderagent_core.environments.commands import ExecError
from thunderagent_core.environments.ledger_errors import FencedError, LedgerError, StaleStateError
from thunderagent_core.environments.ledger_rows import SnapshotStatus
from thunderagent_core.environments.manager.hooks import HookError
from thunderagent_core.environments.states import State

if TYPE_CHECKING:
    from thunderagent_core.environments.ledger_rows import SnapshotRow
    from thunderagent_core.environments.manager.kit import Kit
    from thunderagent_core.environments.manager.record import Record

_LOG = logging.getLogger(__name__)


class Reclamation:
    """Takes things back, one task for each, bounded on each endpoint, never behind a creation.

    Args:
        kit: shared.
    """

    def __init__(self, kit: Kit) -> None:
        self._kit = kit
        self._records = kit.records
        self._dropping: set[str] = set()
        self.idle = asyncio.Event()
        """Set while nothing is being taken back."""
        self.idle.set()
        self._running = 0

    @property
    def running(self) -> int:
        """Environments being taken back."""
        return self._running

    def begin(self, record: Record) -> None:
        """Take back an environment, unless somebody is at it; its state tells what is to become of it."""
        if record.reclaiming:
            return
        record.reclaiming = True
        self._running += 1
        self.idle.clear()
        self._kit.tasks.spawn(self._until_done(record), f"take back {record.row.handle}")

    def drop(self, snapshot: SnapshotRow) -> None:
        """Remove a snapshot whose environment stays, unless somebody is at it."""
        if snapshot.name not in self._dropping:
            self._dropping.add(snapshot.name)
            self._kit.tasks.spawn(self._until_dropped(snapshot), f"drop {snapshot.name}")

    def needed(self, record: Record) -> bool:
        """Whether anything of an environment has to be taken back."""
        state = record.state
        if state is State.RECLAIMING:
            return True
        if state is State.PREPARING:
            return record.failure is not None
        leftover = record.row.present and record.admitted is None
        return state in {State.FAILED, State.SNAPSHOTTED} and (leftover or bool(self._superseded(record)))

    async def _until_done(self, record: Record) -> None:
        began = asyncio.get_running_loop().time()
        backoff = self._kit.backoff()
        try:
            while self.needed(record):
                try:
                    await self._take_back(record)
                except FencedError:
                    raise
                except StaleStateError:
                    continue  # its purpose has changed
                except (ProviderError, LedgerError) as error:
                    _LOG.warning("%s cannot be taken back yet: %s", record.row.handle, error)
                    await backoff.wait()
        finally:
            record.reclaiming = False
            self._running -= 1
            if not self._running:
                self.idle.set()
            record.notify()
        if record.state is State.GONE:
            self._kit.statistics.reclaimed += 1
            self._kit.statistics.reclaim_s.append(asyncio.get_running_loop().time() - began)

    async def _take_back(self, record: Record) -> None:
        await stop_work(record)
        async with record.lock:
            if record.state is State.RECLAIMING:
                await self._tell(record)
            elif record.state is State.SNAPSHOTTED and record.row.present and await self._is_worthless(record):
                await self._keep_original(record)
                return
            await self._destroy(record)
            if record.state is not State.RECLAIMING:
                await self._settle(record)
            over = record.state is State.RECLAIMING
            for snapshot in self._superseded(record):
                await self._drop(snapshot)
            if over:
                await self._settle(record)

    async def _destroy(self, record: Record) -> None:
        record.running = False
        if record.row.present:
            provider = self._kit.provider(record.row.provider)
            async with self._kit.destruction_slot(record.row.provider, record.row.endpoint):
                await asyncio.shield(self._kit.ledger.check_owner())
                await provider.destroy(record.place)
        await self._kit.close_executor(record)  # not before: ending its commands one by one takes longer

    async def _settle(self, record: Record) -> None:
        """Record that nothing is left outside."""
        change = self._records.change
        if record.state is State.RECLAIMING:
            await change(record, State.GONE, expect=State.RECLAIMING, present=False, ports={}, leases={})
        elif record.state is State.PREPARING:
            failure = record.failure
            code, reason = (None, None) if failure is None else (failure.code, failure.reason)
            after = State.FAILED if record.row.snapshot is None else State.SNAPSHOTTED
            gone = {"present": False, "ports": {}, "code": code, "reason": reason}
            await change(record, after, expect=State.PREPARING, leases={}, **gone)  # type: ignore[arg-type]
            record.dirty = False
        else:
            await change(record, expect=record.state, present=False, ports={}, leases={})

    async def _tell(self, record: Record) -> None:
        """Run the hook before the end. Whatever it does, the end comes, within the hook's time limit."""
        hook = record.spec.on_reclaim or self._kit.settings.on_reclaim
        if hook is None or record.hooked or record.row.ready_at is None:
            return
        record.hooked = True
        try:
            async with asyncio.timeout(hook.timeout_s):
                executor = None
                if hook.command is not None and record.row.present:
                    await self._kit.provider(record.row.provider).thaw(record.place)
                    executor = self._kit.executor(record)
                await self._kit.hooks.run(hook, "reclaim", record, executor)
        except TimeoutError:
            _LOG.warning("%s is reclaimed although its hook took too long", record.row.handle)
        except (HookError, ProviderError, ExecError) as error:
            _LOG.warning("%s is reclaimed although its hook failed: %s", record.row.handle, error)

    async def _is_worthless(self, record: Record) -> bool:
        """Whether the snapshot in favour of which an environment is to be destroyed cannot be relied on (any more)."""
        name = record.row.snapshot
        provider = self._kit.provider(record.row.provider)
        return name is None or not await provider.snapshot_is_whole(record.row.endpoint, name)

    async def _keep_original(self, record: Record) -> None:
        """Let an environment live whose snapshot proved useless; what it was made from itself is its snapshot again."""
        worthless = record.row.snapshot
        others = [row.name for row in self._records.snapshots_of(record) if row.status is SnapshotStatus.WHOLE]
        base = next((name for name in others if name != worthless), None)
        await self._records.change(record, State.PAUSED, expect=State.SNAPSHOTTED, snapshot=base)
        for row in self._records.snapshots_of(record):
            if row.name == worthless:
                self.drop(row)

    def _superseded(self, record: Record) -> list[SnapshotRow]:
        """Return the snapshots of an environment that go with what is being taken back."""
        mine = self._records.snapshots_of(record)
        if record.state is State.RECLAIMING:
            return mine
        # The one that the original was made from may be part of it, so it stays until the original is gone.
        settled = record.state is State.SNAPSHOTTED and not record.row.present
        return [row for row in mine if row.name != record.row.snapshot] if settled else []

    async def _until_dropped(self, snapshot: SnapshotRow) -> None:
        backoff = self._kit.backoff()
        try:
            if snapshot.status is not SnapshotStatus.DROPPING:
                snapshot = replace(snapshot, status=SnapshotStatus.DROPPING)
                await self._records.put_snapshot(snapshot)
            while True:
                try:
                    await self._drop(snapshot)
                except FencedError:
                    raise
                except (ProviderError, LedgerError) as error:
                    _LOG.warning("the snapshot %s cannot be dropped yet: %s", snapshot.name, error)
                    await backoff.wait()
                else:
                    return
        finally:
            self._dropping.discard(snapshot.name)

    async def _drop(self, snapshot: SnapshotRow) -> None:
        await asyncio.shield(self._kit.ledger.check_owner())
        await self._kit.provider(snapshot.provider).drop_snapshot(snapshot.endpoint, snapshot.name)
        await self._records.forget_snapshot(snapshot)


async def stop_work(record: Record) -> None:
    """End the task that makes an environment or takes its snapshot, and wait until it has ended."""
    task = record.task
    if task is not None and task is not asyncio.current_task():
        task.cancel()
        await asyncio.wait([task])
