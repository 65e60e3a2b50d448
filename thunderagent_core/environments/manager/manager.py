"""The manager of tool environments: everything that the rest of the server may ask of them."""

from __future__ import annotations

import asyncio
import random
import secrets
import time
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Self

from thunderagent_core.environments.base import ProviderError
from thunderagent_core.environments.commands import EnvironmentDiedError
from thunderagent_core.environments.exec import Executor
from thunderagent_core.environments.ledger_errors import FencedError, StaleStateError
from thunderagent_core.environments.manager.errors import BusyError, EnvironmentLostError, NotReadyError, StoppingError
from thunderagent_core.environments.manager.hooks import Hooks, JsonPost
from thunderagent_core.environments.manager.kit import Kit
from thunderagent_core.environments.manager.looking import Looking
from thunderagent_core.environments.manager.parts import Parts
from thunderagent_core.environments.manager.records import Records
from thunderagent_core.environments.manager.running import EXISTING
from thunderagent_core.environments.manager.statistics import Statistics
from thunderagent_core.environments.manager.tasks import Tasks
from thunderagent_core.environments.manager.views import EnvironmentView, KnownProgram, ReapItem, known
from thunderagent_core.environments.states import State

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping, Sequence

    from thunderagent_core.environments.base import Place, Provider
    from thunderagent_core.environments.ledger import Ledger
    from thunderagent_core.environments.manager.hooks import Post
    from thunderagent_core.environments.manager.kit import MakeExecutor
    from thunderagent_core.environments.manager.record import Program, Record
    from thunderagent_core.environments.manager.settings import ManagerSettings
    from thunderagent_core.environments.spec import EnvironmentSpec


def _executor(provider: Provider, place: Place, spec: EnvironmentSpec) -> Executor:
    return Executor(provider, place, env=spec.env, workdir=spec.workdir)


class Manager(Looking):
    """Owns every environment of one installation, for as long as nobody else opens the same ledger.

    Every method may raise FencedError once that has happened; the server has to stop then.

    Args:
        ledger: opened for this manager; its owner closes it after the manager.
        providers: by name, made for ``ledger.installation``; their owner closes them after the manager.
        settings: what the operator wants.
        clock: seconds since 1970.
        token: random hexadecimal digits for a number of bytes.
        jitter: spreads repetitions.
        post: sends hooks that are addresses; None: by HTTP.
        make_executor: makes what runs commands in an environment; None: an ``Executor``.
    """

    def __init__(
        self,
        ledger: Ledger,
        providers: Mapping[str, Provider],
        settings: ManagerSettings,
        *,
        clock: Callable[[], float] = time.time,
        token: Callable[[int], str] = secrets.token_hex,
        jitter: random.Random | None = None,
        post: Post | None = None,
        make_executor: MakeExecutor | None = None,
    ) -> None:
        self.fenced = asyncio.Event()
        """Set once another server has taken over."""
        self._http = JsonPost()
        self._tasks = Tasks(self._on_fenced)
        self._records = Records(ledger, self._on_fenced)
        self._kit = Kit(
            settings=settings,
            ledger=ledger,
            records=self._records,
            providers=providers,
            hooks=Hooks(post or self._http),
            statistics=Statistics(),
            tasks=self._tasks,
            make_executor=make_executor or _executor,
            clock=clock,
            token=token,
            random=jitter or random.Random(),  # noqa: S311 - jitter
        )
        self._parts = Parts.assemble(self._kit)

    @classmethod
    async def start(
        cls, ledger: Ledger, providers: Mapping[str, Provider], settings: ManagerSettings, **seams: Any
    ) -> Self:
        """Return a manager that goes on where the last one stopped. It waits for the ledger, not for any provider.

        ``seams``: see the class.
        """
        manager = cls(ledger, providers, settings, **seams)
        contents = await asyncio.shield(ledger.load())
        manager._records.fill(contents)
        manager._parts.ports.fill(contents.leases)
        manager._parts.start()
        return manager

    async def aclose(self) -> None:
        """Stop. Environments of live programs stay as they are; reclamations under way get a moment to end."""
        if not self.fenced.is_set():
            try:
                async with asyncio.timeout(self._kit.settings.stop_grace_s):
                    await self._parts.reclamation.idle.wait()
            except TimeoutError:
                pass  # the next start goes on with them
        stopping = StoppingError("the server stops")
        self._stop(stopping)
        await self._tasks.aclose(stopping)
        for program in self._records.lives.values():
            program.stop_freezing()
        executors = [self._kit.close_executor(record) for record in self._records.environments.values()]
        await asyncio.gather(*executors, return_exceptions=True)
        await self._http.aclose()

    # Programs

    def live_programs(self) -> list[KnownProgram]:
        """Return the programs that are live on record: those of the last server, at first."""
        return [known(program) for program in self._records.programs.values()]

    async def declare(
        self, program_id: str, specs: Sequence[EnvironmentSpec], *, parent_id: str | None = None
    ) -> list[EnvironmentView]:
        """Remember, durably, that a program lives and which environments it wants; return them all.

        The same again changes nothing; further environments are added. Nothing is made yet.

        Raises:
            ConflictError: it was declared differently before, or its parent has just ended.
            UnknownProviderError: an environment wants a provider that is not run here.
            LedgerError: it could not be written.
        """
        self._check_owner()
        await self._parts.declaring.declare(program_id, specs, parent_id)
        return self.views(program_id)

    def prepare(self, program_id: str) -> None:
        """Begin to make a program's environments, or to bring them back: it will soon be admitted. Waits for nothing.

        Unknown programs are passed over, as is what failed for good.
        """
        program = self._records.programs.get(program_id)
        if program is None or self.fenced.is_set():
            return
        program.paused, program.expected = False, True
        program.stop_freezing()
        self._begin_all(program)

    async def ended(self, program_id: str, reason: str) -> bool:
        """Record that a program has ended, and its descendants with it; take back all that they own.

        Returns when the end is on disk, False where no such program is live; taking back goes on by itself. Once
        called it is carried out even if the caller is cancelled.
        """
        self._check_owner()
        if program_id not in self._records.programs and not self._parts.declaring.busy(program_id):
            return False
        return bool(await self._tasks.detached(self._parts.declaring.end(program_id, reason), f"end {program_id}"))

    def paused(self, program_id: str) -> None:
        """Heed that the scheduler has paused a program: its environments are frozen after a while."""
        program = self._records.programs.get(program_id)
        if program is not None and not self.fenced.is_set():
            program.expected = False
            self._parts.running.paused(program)

    def restored(self, program_id: str) -> None:
        """Heed that the scheduler has restored a program: its environments run again, or are made if need be."""
        program = self._records.programs.get(program_id)
        if program is not None and not self.fenced.is_set():
            program.expected = False
            self._parts.running.restored(program)
            self._begin_all(program)

    # Environments

    async def wait_ready(self, program_id: str, name: str, timeout_s: float) -> EnvironmentView:
        """Wait until an environment runs, making it or bringing it back where needed.

        Raises what ``use`` raises.
        """
        self._check_owner()
        record = await self._parts.bringing.bring(program_id, name, timeout_s, use=False)
        self._parts.running.unpin(record)
        return self._view(record)

    @asynccontextmanager
    async def use(self, program_id: str, name: str, timeout_s: float) -> AsyncIterator[Executor]:
        """Give what runs commands in an environment that runs; meanwhile it is neither frozen nor put aside.

        From the first time on it counts as used, durably: what is in it exists nowhere else.

        Raises:
            UnknownProgramError, UnknownEnvironmentError: there is none, or it was reclaimed meanwhile.
            PreparationError: it could not be made.
            EnvironmentLostError: it had been used and is gone.
            QueueFullError: too many wait to be made.
            NotReadyError: it did not get ready within ``timeout_s`` seconds.
            UnreachableError: its provider did not answer for so long.
            StoppingError: the server stops.
        """
        self._check_owner()
        record = await self._parts.bringing.bring(program_id, name, timeout_s, use=True)
        try:
            yield self._kit.executor(record)
        except (ProviderError, EnvironmentDiedError) as error:
            await self._explain(record, error)
            raise
        finally:
            self._parts.running.unpin(record)

    async def snapshot(self, program_id: str, name: str) -> EnvironmentView:
        """Put an environment aside: only its files stay, in a verified snapshot, until its program returns.

        Raises:
            BusyError: commands run in it.
            NotReadyError: it does not exist (yet).
            EnvironmentLostError: it is gone.
            ProviderError: the snapshot could not be taken; the environment lives on.
        """
        self._check_owner()
        record = self._parts.bringing.find(program_id, name)
        if record.state is State.LOST:
            raise EnvironmentLostError(record.row.reason or "it is lost")
        if record.state in EXISTING:
            if record.pins or not await self._put_aside(record):
                raise BusyError(f"environment {name!r} is in use")
            self._parts.aside.finish(record)
        if record.state is not State.SNAPSHOTTED:
            raise NotReadyError(f"environment {name!r} is {record.state}")
        return self._view(record)

    async def delete(self, program_id: str, name: str) -> None:
        """Take back one environment of a live program, which wants it no more. Its name is free at once."""
        self._check_owner()
        while True:
            record = self._parts.bringing.find(program_id, name)
            try:
                await self._records.change(record, State.RECLAIMING, reason="deleted")
                break
            except StaleStateError:
                continue  # a warm one has just taken its place
        self._parts.creation.withdraw(record)
        self._parts.reclamation.begin(record)

    async def reap(self, *, dry_run: bool) -> list[ReapItem]:
        """Return what is being, or is to be, taken back; without ``dry_run`` see to it now."""
        self._check_owner()
        items = await self._parts.reaping.items()
        if not dry_run:
            await self._parts.reconciler.run_once()
        return items

    async def _put_aside(self, record: Record) -> bool:
        try:
            return bool(await self._tasks.detached(self._parts.aside.put_aside(record), f"put aside {record.id}"))
        except ProviderError as error:
            await self._explain(record, error)
            raise

    async def _explain(self, record: Record, error: Exception) -> None:
        """Find out whether an environment has died. Raises EnvironmentLostError where it has."""
        try:
            await self._parts.running.check(record)
        except ProviderError:
            return
        if record.state is State.LOST:
            raise EnvironmentLostError(record.row.reason or "it is lost") from error

    def _begin_all(self, program: Program) -> None:
        for record in list(program.environments.values()):
            if record.failure is None or not record.failure.permanent:
                self._parts.bringing.begin(record)

    def _check_owner(self) -> None:
        if self._tasks.stopped is not None:
            raise self._tasks.stopped

    def _on_fenced(self) -> None:
        if not self.fenced.is_set():
            self.fenced.set()
            error = FencedError("another server has taken over these environments")
            asyncio.get_running_loop().call_soon(self._stop, error)

    def _stop(self, reason: Exception) -> None:
        """End all background work, and all waiting for it."""
        self._tasks.cancel(reason)
        for record in self._records.environments.values():
            record.notify()
