"""A house for the manager: a scripted world, a ledger file, time that passes only when nothing else can happen.

Everything runs on one thread and without real waiting, so that a run with the same choices is the same run.
"""

from __future__ import annotations

import asyncio
import random
import selectors
import sqlite3
from typing import TYPE_CHECKING, Any, Self

from thunderagent_core.environments.base import Liveness, ProviderUnavailableError
from thunderagent_core.environments.commands import EnvironmentDiedError, ExecRequest, ExecResult
from thunderagent_core.environments.ledger import Ledger
from thunderagent_core.environments.ledger_errors import LedgerError
from thunderagent_core.environments.ledger_store import Store
from thunderagent_core.environments.ledger_writer import resolve, run_batch
from thunderagent_core.environments.manager import Manager, ManagerSettings
from thunderagent_core.environments.scripted.provider import ScriptedProvider
from thunderagent_core.environments.scripted.world import ScriptedWorld
from thunderagent_core.environments.spec import EnvironmentSpec

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine
    from pathlib import Path

    from thunderagent_core.environments.base import Place
    from thunderagent_core.environments.ledger_store import Job
    from thunderagent_core.environments.scripted.faults import Moment

MIB = 1 << 20
EPOCH_S = 1.7e9
PATIENCE_S = 3600.0
"""For waits that must not end by themselves; virtual seconds cost nothing."""


class _NoWaiting(selectors.DefaultSelector):  # type: ignore[misc, valid-type]
    loop: VirtualLoop

    def select(self, timeout: float | None = None) -> Any:
        if timeout is None:
            raise RuntimeError("everybody waits for somebody else")
        self.loop.passed_s += timeout
        return super().select(0)


class VirtualLoop(asyncio.SelectorEventLoop):
    """Its clock stands still while anything can run, and then jumps to the next timer."""

    def __init__(self) -> None:
        self.passed_s = 0.0
        selector = _NoWaiting()
        selector.loop = self
        super().__init__(selector)

    def time(self) -> float:
        return self.passed_s


def in_virtual_time(story: Coroutine[Any, Any, Any]) -> Any:
    """Run a story to its end."""
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(story)


class Points:
    """Counts the moments at which a process can be killed, and kills it at one of them."""

    def __init__(self, last: int | None = None) -> None:
        self.last = last
        self.passed: list[str] = []
        self.dead = asyncio.Event()
        self.died = False
        """It was killed at a point, rather than by a test."""

    async def reach(self, name: str) -> None:
        """Pass a point, or stop for ever there."""
        if self.reached(name):
            await asyncio.get_running_loop().create_future()

    def check_alive(self) -> None:
        """Stop whoever is dead: between its last point and its end it must not seem to act."""
        if self.dead.is_set():
            raise ProviderUnavailableError("killed")

    def reached(self, name: str) -> bool:
        """Pass a point; True where the process is killed here, or has been."""
        if not self.dead.is_set():
            self.passed.append(name)
            if self.last is not None and len(self.passed) > self.last:
                self.died = True
                self.dead.set()
        return self.dead.is_set()


class InlineWriter:
    """Writes at once, on the event loop's own thread."""

    def __init__(self, store: Store, points: Points) -> None:
        self._store = store
        self._points = points
        self.broken = False
        """Nothing can be written, as on a full disk."""

    def submit(self, job: Job) -> asyncio.Future[Any]:
        future = asyncio.get_running_loop().create_future()
        if self.broken or self._points.reached("before a transaction"):
            resolve([(future, LedgerError("killed"))])
            return future
        result = run_batch(self._store, [job])[0]
        if self._points.reached("after a transaction"):
            result = LedgerError("killed")
        resolve([(future, result)])
        return future

    async def aclose(self) -> None:
        self._store.close()


class PointedProvider(ScriptedProvider):
    """A scripted provider every moment of which is a point; it does nothing for a process that was killed."""

    def __init__(self, world: ScriptedWorld, points: Points, installation: str) -> None:
        super().__init__(world, installation=installation)
        self._points = points

    async def _meet(self, operation: str, moment: Moment, place: Place | None) -> None:
        await self._points.reach(f"{operation}, {moment}")
        await super()._meet(operation, moment, place)


class FakeExecutor:
    """Commands without processes: ``write X`` and ``read`` for one file, ``fail``, ``sleep N``; others do nothing."""

    def __init__(self, house: House, points: Points, place: Place) -> None:
        self._house, self._points, self._place = house, points, place

    async def run(self, request: ExecRequest) -> ExecResult:
        assert isinstance(request.command, str)
        await self._points.reach(f"command {request.command}")
        word, _, rest = request.command.partition(" ")
        if word == "sleep":
            await asyncio.sleep(float(rest))
        box = self._house.world.boxes.get(self._place)
        if box is None or box.liveness is Liveness.STOPPED:
            raise EnvironmentDiedError("it is not running")
        assert box.liveness is Liveness.ALIVE, "a command would hang in a frozen environment"
        self._house.commands.append((self._place.handle, request.command))
        if word == "write":
            box.files.write("/file", rest.encode())
        output = box.files.read("/file") or b"" if word == "read" else b""
        await self._points.reach(f"after command {request.command}")
        failed = word == "fail"
        return ExecResult(exit_code=3 if failed else 0, stdout=output, stderr=rest.encode() if failed else b"")

    async def aclose(self) -> None:
        pass


class House:
    """One installation, whose server can be killed and started again."""

    def __init__(self, path: Path, *, world: ScriptedWorld | None = None, **settings: Any) -> None:
        self.path = path / "ledger.db"
        self.world = world or ScriptedWorld()
        self.settings = ManagerSettings(**{"default_provider": "scripted", "max_creations": 4, **settings})
        self.commands: list[tuple[str, str]] = []
        self.posts: list[tuple[str, dict[str, Any]]] = []
        self.post_status: int = 200
        self.numbers = random.Random(7)
        self.manager: Manager
        self.points: Points

    async def __aenter__(self) -> Self:
        await self.open()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()
        await self.world.aclose()

    def now(self) -> float:
        return EPOCH_S + asyncio.get_running_loop().time()

    def token(self, size: int) -> str:
        return self.numbers.randbytes(size).hex()

    async def open(self, *, dies_after: int | None = None) -> House:
        """Start a server on the ledger; it is killed after that many points."""
        self.points = Points(dies_after)
        store = Store(self.path, self.token(16), clock=self.now, history=1000)
        store.connection.execute("PRAGMA synchronous = OFF")  # a killed process leaves the kernel's pages behind
        self.writer = InlineWriter(store, self.points)
        self.ledger = Ledger(store.installation, store.epoch, self.writer)
        provider = self.make_provider(store.installation)
        self.manager = await Manager.start(
            self.ledger,
            {"scripted": provider},
            self.settings,
            clock=self.now,
            token=self.token,
            jitter=self.numbers,
            post=self.post,
            make_executor=lambda _, place, __: FakeExecutor(self, self.points, place),  # type: ignore[arg-type, return-value]
        )
        return self

    def make_provider(self, installation: str) -> PointedProvider:
        return PointedProvider(self.world, self.points, installation)

    async def post(self, url: str, content: Any, timeout_s: float) -> int:
        self.posts.append((url, dict(content)))
        if url.endswith("hang"):
            await asyncio.sleep(PATIENCE_S)
        return self.post_status

    async def close(self) -> None:
        """Stop the server in order."""
        await self.manager.aclose()
        await self.ledger.aclose()

    async def kill(self) -> None:
        """End the server as SIGKILL does: nothing that it does from now on has any effect."""
        self.points.dead.set()
        await self.manager._tasks.aclose(LedgerError("killed"))
        await self.ledger.aclose()

    async def restart(self) -> Manager:
        """Kill the server and start another."""
        await self.kill()
        await self.open()
        return self.manager

    # Looking

    def state(self, program_id: str, name: str = "shell") -> str | None:
        """Return the state of a program's environment; None where it has none."""
        program = self.manager._records.programs.get(program_id)
        record = program.environments.get(name) if program else None
        return None if record is None else str(record.state)

    def box(self, program_id: str, name: str = "shell") -> Any:
        """Return what the world holds of a program's environment."""
        record = self.manager._records.programs[program_id].environments[name]
        return self.world.boxes.get(record.place)

    def rows(self) -> list[tuple[str, str]]:
        """Return handle and state of everything that the ledger remembers."""
        with sqlite3.connect(self.path) as connection:
            found = connection.execute("SELECT handle, state FROM environments").fetchall()
        connection.close()
        return found

    def assert_nothing_left(self) -> None:
        """Nothing is left outside, and nothing on record that is not over."""
        assert not self.world.boxes
        assert not self.world.snapshots
        assert {state for _, state in self.rows()} <= {"gone"}
        with sqlite3.connect(self.path) as connection:
            for table in ("ports", "snapshots"):
                assert connection.execute(f"SELECT * FROM {table}").fetchall() == []
        connection.close()

    # Waiting

    async def until(self, condition: Callable[[], Any], within_s: float = PATIENCE_S) -> None:
        """Wait until something holds."""
        loop = asyncio.get_running_loop()
        end, step_s = loop.time() + within_s, 0.01
        while not condition():
            assert loop.time() < end, "it did not come to that"
            await asyncio.sleep(step_s)
            step_s = min(1.0, 1.2 * step_s)

    async def until_state(
        self, program_id: str, *states: str, name: str = "shell", within_s: float = PATIENCE_S
    ) -> None:
        await self.until(lambda: self.state(program_id, name) in states, within_s)

    async def run(self, program_id: str, command: str, name: str = "shell") -> str:
        """Run a command in an environment and return its output."""
        async with self.manager.use(program_id, name, PATIENCE_S) as executor:
            result = await executor.run(ExecRequest(command=command))
        assert result.exit_code == 0
        return result.stdout.decode()


def spec(name: str = "shell", **fields: Any) -> EnvironmentSpec:
    """Return a specification of 10 MiB."""
    return EnvironmentSpec(**{"name": name, "disk_bytes": 10 * MIB, **fields})
