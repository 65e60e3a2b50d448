"""Environments by bubblewrap: the provider that needs nothing but Linux.

A sandbox has its own users, processes, mounts, inter-process communication and host name, no privileges, and no network
unless it asks for one. It goes on when the server ends, and a later server finds it again by what is on the disk.

Files. Without an image a sandbox sees the host's ``/usr`` read-only and has a directory of its own for everything else.
``image`` is the absolute path of a root file system, which it sees with its own changes over it (an overlay); where the
host cannot do that, read-only with a directory of its own around it. Snapshots hold what was changed.

Network. One that asks for network or ports shares the host's. The port of the host that was leased for a port inside is
in the variable ``THUNDER_PORT_<port inside>``, and that is where a program has to listen.

Limits are those of control groups. Where the host lets us make none, ``limits`` says which are missing: memory is then
limited for each process, the number of processes as before, and processor time not at all.

Run by the administrator, all sandboxes belong to a user who owns nothing else on the host; by anybody else, to them.
"""

from __future__ import annotations

import asyncio
import os
import shutil
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final
from weakref import WeakValueDictionary

from thunderagent_core.environments.base import (
    LABEL_ENVIRONMENT,
    Found,
    Kind,
    Liveness,
    Place,
    ProviderError,
    ProviderUnavailableError,
    Room,
    Sighting,
)
from thunderagent_core.environments.process.commands import start_command
from thunderagent_core.environments.process.making import Making
from thunderagent_core.environments.process.waiting import finish, in_thread
from thunderagent_core.environments.process.workshop import Workshop

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping, Sequence
    from pathlib import Path

    from thunderagent_core.environments.base import Plan
    from thunderagent_core.environments.process.cgroups import Cgroups
    from thunderagent_core.environments.process.records import Record
    from thunderagent_core.environments.process.streams import SandboxProcess

SANDBOX_USER: Final = 1_900_000_000
"""The host's user for sandboxes where the administrator runs the server: above all that systems give out."""


class ProcessProvider:
    """See ``Provider``. It has one endpoint, whose name is empty.

    Args:
        installation: whose environments it makes and touches.
        root: directory for their files, which belongs to this installation alone.
        timeout_s: longest time for anything that does not copy files, in seconds.
        files_timeout_s: longest time for what does.
        sandbox_user: user and group on the host that sandboxes belong to; used where the administrator runs the server.
        cgroups: control groups; None: what the host lets us use.

    Raises:
        ProviderError: ``bubblewrap_unavailable``: bubblewrap is not installed, or this is not Linux.
    """

    name = "process"

    def __init__(
        self,
        *,
        installation: str,
        root: Path,
        timeout_s: float = 30.0,
        files_timeout_s: float = 600.0,
        sandbox_user: int = SANDBOX_USER,
        cgroups: Cgroups | None = None,
    ) -> None:
        user = sandbox_user if os.geteuid() == 0 else None
        self._shop = Workshop(installation=installation, root=root, user=user, cgroups=cgroups)
        self._making = Making(self._shop)
        self._timeout_s = timeout_s
        self._files_timeout_s = files_timeout_s
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    @property
    def limits(self) -> frozenset[str]:
        """Which of memory, pids and cpu are limited for an environment as a whole."""
        return self._shop.cgroups.limits

    async def rooms(self) -> Sequence[Room]:
        """See ``Provider.rooms``."""
        async with self._bounded("the directory of environments"):
            await self._shop.open()
            free = (await in_thread(shutil.disk_usage, self._shop.root)).free
            return [Room("", free, len(await in_thread(self._shop.store.handles)))]

    async def create(self, plan: Plan) -> Sighting:
        """See ``Provider.create``."""
        async with self._operation(plan.place, files=plan.snapshot is not None):
            record = await self._making.prepare(plan)
            return await self._run(record)

    async def look(self, place: Place) -> Sighting:
        """See ``Provider.look``."""
        try:
            async with self._bounded(place.handle):
                await self._shop.open()
                record = await in_thread(self._shop.store.read, place.handle)
        except (ProviderError, OSError):
            return Sighting(Liveness.UNKNOWN)
        return Sighting(Liveness.GONE) if record is None else self._sighting(record)

    async def start(self, place: Place) -> Sighting:
        """See ``Provider.start``."""
        async with self._operation(place):
            record = await self._read(place)
            if not record.filled:
                raise ProviderError(f"{place.handle} was never made to its end", code="environment_gone")
            return await self._run(record)

    async def spawn(
        self, place: Place, command: Sequence[str], *, env: Mapping[str, str] | None = None, workdir: str | None = None
    ) -> SandboxProcess:
        """See ``Provider.spawn``. A working directory that was asked for must exist; the environment's own is made."""
        async with self._bounded(place.handle):
            await self._shop.open()
            record = await self._read(place)
            self._require(record, Liveness.ALIVE)
            return await start_command(
                self._shop.spawner,
                record,
                command,
                env=env or {},
                workdir=workdir,
                groups=self._shop.cgroups.entrances(place.handle),
                limits=self._shop.control.limits(record),
                drop_groups=self._shop.host.user is not None,
            )

    async def freeze(self, place: Place) -> None:
        """See ``Provider.freeze``."""
        async with self._operation(place):
            record = await self._read(place)
            self._require(record, Liveness.ALIVE, Liveness.FROZEN)
            await self._shop.control.freeze(record)

    async def thaw(self, place: Place) -> None:
        """See ``Provider.thaw``."""
        async with self._operation(place):
            record = await self._read(place)
            self._require(record, Liveness.ALIVE, Liveness.FROZEN)
            await self._shop.control.thaw(record)

    async def snapshot(self, place: Place, name: str, labels: Mapping[str, str]) -> None:
        """See ``Provider.snapshot``. One that runs stands still meanwhile."""
        async with self._operation(place, files=True):
            record = await self._read(place)
            runs = self._shop.control.liveness(record) is Liveness.ALIVE
            try:
                if runs:
                    await self._shop.control.freeze(record)
                await self._shop.snapshots.save(name, labels, record, self._shop.store.upper(place.handle))
            finally:
                if runs:
                    await finish(self._shop.control.thaw(record))

    async def snapshot_is_whole(self, endpoint: str, name: str) -> bool:  # noqa: ARG002 - there is one endpoint
        """See ``Provider.snapshot_is_whole``."""
        async with self._bounded(name, files=True):
            await self._shop.open()
            return await self._shop.snapshots.is_whole(name)

    async def drop_snapshot(self, endpoint: str, name: str) -> None:  # noqa: ARG002 - there is one endpoint
        """See ``Provider.drop_snapshot``."""
        async with self._bounded(name, files=True):
            await self._shop.open()
            await self._shop.snapshots.drop(name)

    async def destroy(self, place: Place) -> None:
        """See ``Provider.destroy``."""
        async with self._operation(place, files=True):
            record = await in_thread(self._shop.store.read, place.handle)
            self._shop.deaths.forget(place.handle)
            await self._shop.control.end(place.handle, record)
            await self._shop.control.remove_groups(place.handle)
            remains = await in_thread(self._shop.store.discard, place.handle)
            if remains:
                await self._shop.tools.remove(*remains)

    async def survey(self, endpoint: str) -> Sequence[Found]:  # noqa: ARG002 - there is one endpoint
        """See ``Provider.survey``."""
        async with self._bounded("the directory of environments"):
            await self._shop.open()
            handles = await in_thread(self._shop.store.handles)
            found = [await self._find(handle) for handle in sorted(handles | self._shop.cgroups.handles())]
            return [one for one in found if one is not None] + await in_thread(self._shop.snapshots.found)

    async def disk_bytes(self, place: Place) -> int | None:
        """See ``Provider.disk_bytes``. The log of the main program counts as well."""
        async with self._bounded(place.handle, files=True):
            await self._shop.open()
            paths = [self._shop.store.layer(place.handle), self._shop.store.log(place.handle)]
            try:
                return await self._shop.tools.allocated_bytes(*(path for path in paths if path.exists()))
            except ProviderError:
                return None

    def deaths(self) -> AsyncIterator[Place]:
        """See ``Provider.deaths``. Those that were made, started or looked at by this provider are watched."""
        return self._shop.deaths.follow()

    async def aclose(self) -> None:
        """See ``Provider.aclose``. Commands that still run are killed; sandboxes live on."""
        await self._shop.aclose()

    async def _run(self, record: Record) -> Sighting:
        control = self._shop.control
        if control.liveness(record) is Liveness.FROZEN:
            await control.thaw(record)
        if control.liveness(record) is Liveness.STOPPED:  # also one that was killed while it was frozen
            record = await self._making.start(record)
        sighting = self._sighting(record)
        if sighting.liveness is Liveness.STOPPED:
            raise ProviderError(f"the main program of {record.handle} has ended", code="main_program_ended")
        return sighting

    def _sighting(self, record: Record) -> Sighting:
        liveness = self._shop.control.liveness(record)
        if liveness is not Liveness.STOPPED and record.init is not None:
            self._shop.deaths.watch(record.handle, record.init)
        return Sighting(liveness, ports=record.ports)

    async def _find(self, handle: str) -> Found | None:
        try:
            environment = self._shop.store.environment_id(handle)
            record = await in_thread(self._shop.store.read, handle)
        except ProviderUnavailableError:
            return Found(Kind.ENVIRONMENT, handle, environment, Liveness.UNKNOWN)
        except ProviderError:
            return None  # not ours
        if record is None:
            return Found(Kind.ENVIRONMENT, handle, environment)
        named = record.labels.get(LABEL_ENVIRONMENT, environment)
        return Found(Kind.ENVIRONMENT, handle, named, self._shop.control.liveness(record))

    async def _read(self, place: Place) -> Record:
        record = await in_thread(self._shop.store.read, place.handle)
        if record is None:
            raise ProviderError(f"there is no environment {place.handle}", code="environment_gone", permanent=True)
        return record

    def _require(self, record: Record, *wanted: Liveness) -> None:
        found = self._shop.control.liveness(record)
        if found not in wanted:
            raise ProviderError(f"{record.handle} is {found}", code=f"environment_{found}")

    @asynccontextmanager
    async def _operation(self, place: Place, *, files: bool = False) -> AsyncIterator[None]:
        """Surround what must not happen to an environment twice at a time."""
        lock = self._locks.setdefault(place.handle, asyncio.Lock())
        async with self._bounded(place.handle, files=files), lock:
            await self._shop.open()
            yield

    @asynccontextmanager
    async def _bounded(self, what: str, *, files: bool = False) -> AsyncIterator[None]:
        try:
            async with asyncio.timeout(self._files_timeout_s if files else self._timeout_s):
                yield
        except TimeoutError:
            raise ProviderUnavailableError(f"{what} does not answer in time") from None
        except OSError as error:
            raise ProviderUnavailableError(f"{what} cannot be reached: {error}") from error
