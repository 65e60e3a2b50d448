"""Looks at sandboxes that exist, freezes, thaws and ends them."""

from __future__ import annotations

import asyncio
import contextlib
import resource
import signal
from typing import TYPE_CHECKING, Final

from thunderagent_core.environments.base import Liveness, ProviderUnavailableError
from thunderagent_core.environments.process.identity import (
    identify,
    is_alive,
    is_doomed,
    is_on_host,
    is_stopped,
    marked_processes,
    namespace_members,
    send_signal,
    wait_for_end,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from thunderagent_core.environments.process.cgroups import Cgroups
    from thunderagent_core.environments.process.identity import Identity
    from thunderagent_core.environments.process.launchpad import Host
    from thunderagent_core.environments.process.records import Record

_POLL_S: Final = 0.0005
_LONGEST_POLL_S: Final = 0.05
_SETTLE_S: Final = 20.0
_NOTE_S: Final = 2.0


class Control:
    """Everything about the processes of sandboxes that were started.

    Args:
        cgroups: what this host lets us use.
        host: how sandboxes are marked.
    """

    def __init__(self, cgroups: Cgroups, host: Host) -> None:
        self._cgroups = cgroups
        self._host = host

    def liveness(self, record: Record) -> Liveness:
        """Return whether a sandbox runs: ALIVE, FROZEN or STOPPED."""
        if record.init is None or not is_alive(record.init) or is_doomed(record.init):
            return Liveness.STOPPED
        frozen = self._cgroups.is_frozen(record.handle) or is_stopped(record.init)
        return Liveness.FROZEN if frozen else Liveness.ALIVE

    def limits(self, record: Record) -> list[tuple[int, int]]:
        """Return the limits of single processes that stand in for those of control groups that the host refuses."""
        spec, missing = record.spec, {"memory", "pids"} - self._cgroups.limits
        kinds = {"memory": (resource.RLIMIT_DATA, spec.memory_bytes), "pids": (resource.RLIMIT_NPROC, spec.pids)}
        return [kinds[name] for name in sorted(missing)]

    def limit(self, record: Record) -> None:
        """Put those limits on the processes that a sandbox began with."""
        limits = self.limits(record)
        for process in namespace_members(record.init) if limits and record.init is not None else ():
            for kind, value in limits:
                with contextlib.suppress(ProcessLookupError):  # it may have ended by now
                    resource.prlimit(process.pid, kind, (value, value))

    async def freeze(self, record: Record) -> None:
        """Stop all processes of a sandbox that runs. Idempotent."""
        if self._cgroups.can_freeze:
            self._cgroups.set_frozen(record.handle, frozen=True)
            await _until(lambda: self._cgroups.is_frozen(record.handle), f"{record.handle} does not freeze")
        else:
            await self._stop_each(record)

    async def thaw(self, record: Record) -> None:
        """Let them go on. Idempotent."""
        if self._cgroups.can_freeze:
            self._cgroups.set_frozen(record.handle, frozen=False)
            await _until(lambda: not self._cgroups.is_frozen(record.handle), f"{record.handle} does not thaw")
        elif record.init is not None:
            for process in namespace_members(record.init):  # the first process last: while it stands, all is frozen
                send_signal(process, signal.SIGCONT)
            await _until(lambda: not _stands(record.init), f"{record.handle} does not go on")

    async def end(self, handle: str, record: Record | None) -> None:
        """Kill every process of a sandbox, in whatever state, and return when there is none.

        The end of its first process is the end of all of them; the kernel sees to that. Only what was started just
        before a crash has to be searched for.

        Raises:
            ProviderUnavailableError: they do not end.
        """
        try:
            async with asyncio.timeout(_SETTLE_S):
                while found := self._processes(handle, record):
                    inside = [process for process in found if not is_on_host(process.pid)]
                    for process in inside or found:
                        send_signal(process, signal.SIGKILL)
                    self._let_die(handle)
                    await self._wait_for_ends(found)
            self._let_die(handle)  # the groups may be used again
        except TimeoutError:
            raise ProviderUnavailableError(f"processes of {handle} do not end") from None

    async def remove_groups(self, handle: str) -> None:
        """Remove the control groups of a sandbox whose processes have ended."""
        await _until(lambda: self._cgroups.remove(handle), f"the control groups of {handle} are in use")

    async def _wait_for_ends(self, processes: Sequence[Identity]) -> None:
        """Wait for the end of processes. Bubblewrap's outer one ends by itself, having taken note of its child's end.

        Killing both at a time would leave that note to whoever comes next, if anybody.
        """
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_NOTE_S):
                await asyncio.gather(*map(wait_for_end, processes))

    def _processes(self, handle: str, record: Record | None) -> list[Identity]:
        found = [process for pid in self._cgroups.processes(handle) if (process := identify(pid)) is not None]
        if record is not None:
            found += [process for process in (record.init, record.monitor) if process is not None and is_alive(process)]
            if record.launching:
                found += marked_processes(self._host.marker(handle))
        return list(dict.fromkeys(found))

    def _let_die(self, handle: str) -> None:
        """Thaw what has been killed: in version 1, what is frozen does not die."""
        if self._cgroups.can_freeze:
            with contextlib.suppress(FileNotFoundError):  # not made yet, or removed already
                self._cgroups.set_frozen(handle, frozen=False)

    async def _stop_each(self, record: Record) -> None:
        """Stop by signals, again for what was started meanwhile; the first process last, as a sign that all are."""
        if record.init is None:
            return
        rest = [process for process in namespace_members(record.init) if process != record.init]
        while running := [process for process in rest if not is_stopped(process)]:
            for process in running:
                send_signal(process, signal.SIGSTOP)
            await asyncio.sleep(_POLL_S)
            rest = [process for process in namespace_members(record.init) if process != record.init]
        send_signal(record.init, signal.SIGSTOP)
        await _until(lambda: not _runs(record.init), f"{record.handle} does not stop")


def _stands(process: Identity | None) -> bool:
    return process is not None and is_stopped(process)


def _runs(process: Identity | None) -> bool:
    return process is not None and is_alive(process) and not is_stopped(process)


async def _until(condition: Callable[[], bool], problem: str) -> None:
    """Wait for something that the kernel does within moments. Raises ProviderUnavailableError with ``problem``."""
    pause_s = _POLL_S
    try:
        async with asyncio.timeout(_SETTLE_S):
            while not condition():
                await asyncio.sleep(pause_s)
                pause_s = min(_LONGEST_POLL_S, pause_s * 2)
    except TimeoutError:
        raise ProviderUnavailableError(problem) from None
