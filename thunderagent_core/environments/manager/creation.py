"""The queue of environments to be made: who is next, whether there is room, and what becomes of failures."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from thunderagent_core.environments.base import ProviderUnavailableError
from thunderagent_core.environments.ledger_errors import FencedError, LedgerError, StaleStateError
from thunderagent_core.environments.manager.failures import SnapshotGoneError, failure_of
from thunderagent_core.environments.manager.lane import Lane
from thunderagent_core.environments.manager.making import Making
from thunderagent_core.environments.manager.placement import is_bound
from thunderagent_core.environments.manager.record import Failure
from thunderagent_core.environments.states import State

if TYPE_CHECKING:
    from collections.abc import Callable

    from thunderagent_core.environments.manager.disk import Disk
    from thunderagent_core.environments.manager.kit import Kit
    from thunderagent_core.environments.manager.placement import Placement
    from thunderagent_core.environments.manager.ports import PortPool
    from thunderagent_core.environments.manager.reclamation import Reclamation
    from thunderagent_core.environments.manager.record import Record

_LOG = logging.getLogger(__name__)

_LOOK_AGAIN_S: Final = 0.5
"""Disk may become free without our doing, so a queue that waits for it is looked at this often, in seconds."""

_DAEMON_AGAIN_S: Final = 1.0
"""How often a provider is asked that does not answer, in seconds."""

_MAX_ATTEMPTS: Final = 5
"""Environments given up one after the other because their endpoint could not be reached."""


class Creation:
    """Starts creations as room allows, a bounded number at once.

    Args:
        kit: shared.
        disk: says whether there is room at all.
        placement: says where.
        ports: leases host ports.
        reclamation: takes back what was half made.
    """

    def __init__(self, kit: Kit, disk: Disk, placement: Placement, ports: PortPool, reclamation: Reclamation) -> None:
        self._kit = kit
        self._disk = disk
        self._placement = placement
        self._reclamation = reclamation
        self._making = Making(kit, ports)
        self._running: dict[str, Record] = {}
        self.lanes = {name: Lane(name) for name in kit.providers}
        self.made: list[Callable[[Record], None]] = []
        """Called with each environment that has become ready."""

    def start(self) -> None:
        """Begin to take from the queues."""
        for lane in self.lanes.values():
            self._kit.tasks.spawn(self._serve(lane), f"make environments of {lane.provider}")

    @property
    def queued(self) -> int:
        """Environments that wait."""
        return sum(len(lane.waiting) + len(lane.spare) for lane in self.lanes.values())

    @property
    def running(self) -> int:
        """Environments being made."""
        return len(self._running)

    def position(self, record: Record) -> int | None:
        """Return how many wait before this one; None where it does not wait."""
        lane = self.lanes.get(record.row.provider)
        if lane is None or record.id not in lane.waiting:
            return None
        return list(lane.waiting).index(record.id)

    def positions(self) -> dict[str, int]:
        """Return how many wait before each one that waits, by its id."""
        return {one: number for lane in self.lanes.values() for number, one in enumerate(lane.waiting)}

    def want(self, record: Record) -> bool:
        """Queue an environment that is to be made, or to come back; False where the queue is full.

        Nothing happens where it waits already, is being made, or has to be taken back first.
        """
        if not self._makeable(record):
            return True
        lane = self.lanes.get(record.row.provider)
        if lane is None or record.id in lane.waiting or record.id in lane.spare:
            return True
        if self.queued >= self._kit.settings.max_queue:
            return False
        record.failure = None
        queue = lane.spare if record.program is None else lane.waiting
        queue[record.id] = record
        lane.wake.set()
        return True

    def withdraw(self, record: Record) -> None:
        """Take an environment out of the queue."""
        lane = self.lanes.get(record.row.provider)
        if lane is not None:
            lane.remove(record)

    def kick(self) -> None:
        """Look at the queues again: something may have become free."""
        for lane in self.lanes.values():
            lane.wake.set()

    def _makeable(self, record: Record) -> bool:
        if record.admitted is not None or record.reclaiming:
            return False
        if record.state is State.PREPARING:
            return record.failure is None
        return record.state in {State.REQUESTED, State.FAILED, State.SNAPSHOTTED} and not record.row.present

    async def _serve(self, lane: Lane) -> None:
        while True:
            lane.wake.clear()
            try:
                wait_s = _LOOK_AGAIN_S if await self._start_some(lane) else None
            except FencedError:
                raise
            except ProviderUnavailableError as error:
                _LOG.warning("no environments are made: %s", error)
                wait_s = _DAEMON_AGAIN_S
            except Exception:  # noqa: BLE001 - the queue must go on
                _LOG.exception("the queue of %s failed in a way that is a bug", lane.provider)
                wait_s = _DAEMON_AGAIN_S
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(wait_s):
                    await lane.wake.wait()

    async def _start_some(self, lane: Lane) -> bool:
        """Start what can be started; return whether somebody waits for something that nobody announces."""
        if not (lane.waiting or lane.spare) or self._full():
            return False
        rooms = await self._kit.providers[lane.provider].rooms()
        self._placement.see(lane.provider, rooms)
        full: set[str] = set()
        for record in lane.in_order():
            if self._full():
                return False
            if self._disk.never_fits(record):
                await self._refuse(lane, record)
                continue
            if not self._makeable(record):
                lane.remove(record)
                continue
            bound = is_bound(record)
            if bound and self._placement.room(lane.provider, record.row.endpoint) is None:
                continue  # its endpoint does not answer; the others behind it may go ahead
            endpoint = self._placement.choose(record, full, self._busy(lane))
            if endpoint is None and bound and self._disk.within_budget(record):
                full.add(record.row.endpoint)  # nobody overtakes it there; others behind it may go ahead elsewhere
                continue
            if endpoint is None:
                return True
            lane.remove(record)
            self._begin(record, endpoint)
        return bool(lane.waiting or lane.spare)

    def _busy(self, lane: Lane) -> list[str]:
        """Return the endpoint of everything that is being made by one provider."""
        return [other.endpoint for other in self._running.values() if other.row.provider == lane.provider]

    def _full(self) -> bool:
        return len(self._running) >= self._kit.settings.max_creations

    def _begin(self, record: Record, endpoint: str) -> None:
        record.admitted = endpoint
        self._running[record.id] = record
        record.task = self._kit.tasks.spawn(self._make(record, endpoint), f"make {record.row.handle}")

    async def _refuse(self, lane: Lane, record: Record) -> None:
        lane.remove(record)
        reason = f"it reserves {record.row.disk_reserved} bytes of disk, more than the whole budget"
        await self._failed(record, Failure("disk_over_budget", reason, permanent=True))

    async def _make(self, record: Record, endpoint: str) -> None:
        began = asyncio.get_running_loop().time()
        comes_back = record.row.snapshot is not None
        try:
            async with record.lock:
                await self._making.make(record, endpoint)
        except FencedError:
            raise
        except StaleStateError:
            return  # it is being reclaimed
        except SnapshotGoneError as error:
            await self._lost(record, str(error))
        except Exception as error:  # noqa: BLE001 - whatever it is, it is taken back and reported
            await self._failed(record, failure_of(error))
        else:
            self._kit.statistics.made += 1
            self._kit.statistics.brought_back += comes_back
            self._kit.statistics.start_s.append(asyncio.get_running_loop().time() - began)
            for listener in self.made:
                listener(record)
        finally:
            record.admitted = record.task = None
            self._running.pop(record.id, None)
            record.notify()
            self.kick()

    async def _lost(self, record: Record, reason: str) -> None:
        change = self._kit.records.change
        try:
            await change(record, State.LOST, expect=State.PREPARING, code="environment_lost", reason=reason)
        except (StaleStateError, LedgerError) as error:  # it is being reclaimed, or tried once more later
            _LOG.warning("%s: %s", record.row.handle, error)
        else:
            self._kit.statistics.lost += 1

    async def _failed(self, record: Record, failure: Failure) -> None:
        """Remember why, and take back what was made."""
        _LOG.warning("%s was not made: %s", record.row.handle, failure.reason)
        self._kit.statistics.failed[failure.code] += 1
        record.failure = failure
        try:
            if record.state is State.REQUESTED:
                change = self._kit.records.change
                await change(record, State.FAILED, expect=State.REQUESTED, code=failure.code, reason=failure.reason)
            elif record.state is State.PREPARING and failure.unreachable and self._replaceable(record):
                await self._replace(record, failure)
        except (StaleStateError, LedgerError) as error:
            _LOG.warning("%s: %s", record.row.handle, error)
        self._reclamation_may_begin(record)

    def _reclamation_may_begin(self, record: Record) -> None:
        if self._reclamation.needed(record):
            record.admitted = None
            self._reclamation.begin(record)

    def _replaceable(self, record: Record) -> bool:
        row = record.row
        return not row.used and row.snapshot is None and record.attempts < _MAX_ATTEMPTS

    async def _replace(self, record: Record, failure: Failure) -> None:
        """Request another in place of one of which nobody knows what was made, so that another endpoint may serve."""
        token = self._kit.token(8)
        row = replace(
            record.row,
            id=token,
            handle=self._kit.ledger.handle(token),
            state=State.REQUESTED,
            endpoint="",
            present=False,
            ports={},
            host="",
            disk_used=0,
            code=None,
            reason=None,
            ready_at=None,
        )
        another = await self._kit.records.replace(record, row, failure.reason)
        another.attempts = record.attempts + 1
        another.wanted = record.wanted
        self.want(another)
