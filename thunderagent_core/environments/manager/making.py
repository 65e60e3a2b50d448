"""One environment being made: every step of it, from the intent in the ledger to READY."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from thunderagent_core.environments.base import Plan, ProviderError, ProviderUnavailableError, Sighting
from thunderagent_core.environments.commands import ExecRequest
from thunderagent_core.environments.manager.failures import NoPortsError, SetupError, SnapshotGoneError
from thunderagent_core.environments.states import State

if TYPE_CHECKING:
    from thunderagent_core.environments.manager.kit import Kit
    from thunderagent_core.environments.manager.ports import PortPool
    from thunderagent_core.environments.manager.record import Record

_UNREACHABLE_TRIES: Final = 4
_FAILED_TRIES: Final = 3
_PORT_TRIES: Final = 8
_SHOWN_CHARS: Final = 500


class Making:
    """Makes environments.

    Args:
        kit: shared.
        ports: leases host ports.
    """

    def __init__(self, kit: Kit, ports: PortPool) -> None:
        self._kit = kit
        self._ports = ports

    async def make(self, record: Record, endpoint: str) -> None:
        """Make an environment on an endpoint; it is READY, or IN_USE again, when this returns.

        Raises:
            ProviderError: it cannot be made, or (unavailable) it is not known whether it was.
            SetupError, HookError, ExecError: something that runs inside failed.
            SnapshotGoneError: there is nothing to make it from.
            NoPortsError: no port is left to lease.
            TimeoutError: it took too long.
            StaleStateError: it is not to be made any more.
        """
        expect = record.state
        leases = self._lease(record, endpoint)
        await self._kit.records.change(
            record,
            State.PREPARING,
            expect=expect,
            leases=leases,
            endpoint=endpoint,
            ports=leases,
            present=True,
            code=None,
            reason=None,
        )
        async with asyncio.timeout(self._kit.settings.creation_timeout_s):
            sighting = await self._until_made(record)
        # Outside of the time limit: nobody could tell whether a change that is cut short has been made.
        await self._kit.records.change(
            record,
            State.IN_USE if record.row.used else State.READY,
            expect=State.PREPARING,
            host=sighting.host,
            ports=sighting.ports,
            ready_at=record.row.ready_at or self._kit.clock(),
        )
        record.running = True

    def _lease(self, record: Record, endpoint: str) -> dict[int, int]:
        leases = self._ports.lease(record.row, endpoint)
        if leases is None:
            raise NoPortsError(f"{len(record.spec.ports)} ports are wanted, and too few of the range are free")
        return dict(leases)

    async def _until_made(self, record: Record) -> Sighting:
        backoff = self._kit.backoff()
        unreachable = failed = port_taken = 0
        while True:
            try:
                return await self._attempt(record)
            except ProviderUnavailableError:
                unreachable += 1
                if unreachable >= _UNREACHABLE_TRIES:
                    raise
            except ProviderError as error:
                if error.code == "port_taken" and port_taken < _PORT_TRIES:
                    port_taken += 1
                    await self._take_other_ports(record)
                    continue
                failed += 1
                if error.permanent or failed >= _FAILED_TRIES:
                    raise
            await backoff.wait()

    async def _take_other_ports(self, record: Record) -> None:
        """Remove what is half made, and lease other ports than the one that somebody else has."""
        await self._kit.provider(record.row.provider).destroy(record.place)
        self._ports.spurn(record.row)
        leases = self._lease(record, record.row.endpoint)
        await self._kit.records.change(record, expect=State.PREPARING, leases=leases, ports=leases)

    async def _attempt(self, record: Record) -> Sighting:
        provider = self._kit.provider(record.row.provider)
        if record.dirty:
            await self._kit.close_executor(record)
            await provider.destroy(record.place)
            record.dirty = False
        snapshot = await self._source(record)
        labels = self._kit.records.labels(record)
        plan = Plan(place=record.place, labels=labels, spec=record.spec, snapshot=snapshot, ports=_wanted_ports(record))
        await self._kit.image_settled(record)
        sighting = await provider.create(plan)
        record.dirty = True  # until everything that runs inside has ended well
        if snapshot is None:
            await self._set_up(record)
        hook = record.spec.on_ready or self._kit.settings.on_ready
        if hook is not None:
            await self._kit.hooks.run(hook, "ready", record, self._kit.executor(record))
        record.dirty = False
        return sighting

    async def _source(self, record: Record) -> str | None:
        """Return the snapshot to make it from, if any. One that was never used can be made without as well."""
        name = record.row.snapshot
        if name is None:
            return None
        provider = self._kit.provider(record.row.provider)
        if await provider.snapshot_is_whole(record.row.endpoint, name):
            return name
        if record.row.used:
            raise SnapshotGoneError(f"the snapshot {name} is gone or damaged")
        await self._kit.records.change(record, expect=State.PREPARING, snapshot=None)
        return None

    async def _set_up(self, record: Record) -> None:
        executor = self._kit.executor(record)
        for command in record.spec.setup:
            result = await executor.run(ExecRequest(command=command))
            if result.exit_code:
                shown = (result.stderr or result.stdout).decode("utf-8", "replace")[:_SHOWN_CHARS].strip()
                raise SetupError(f"{shown} (exit status {result.exit_code} of the set-up command {command!r})")


def _wanted_ports(record: Record) -> dict[int, int]:
    """Return the host port to publish for each port inside; 0: the daemon chooses."""
    return {inside: record.row.ports.get(inside, 0) for inside in record.spec.ports}
