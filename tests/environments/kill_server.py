"""Starts servers that kill themselves with SIGKILL at one point of their work, chosen from outside.

A point is the moment before or after a commit of the ledger, an effect of a provider or a command, or some time after
the beginning of one. Servers are forked from this process, which has loaded everything once; otherwise each is what
``thunderagent serve`` is. Orders are lines of JSON on the standard input, answers the numbers of processes.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import json
import os
import signal
import sys
import threading
import time
from typing import TYPE_CHECKING, Any

import aiodocker  # noqa: F401 - loaded here, so that no server has to
import aiohttp  # noqa: F401
import uvloop  # noqa: F401

from thunderagent_core.cli import build_app
from thunderagent_core.environments import ledger
from thunderagent_core.environments.docker.provider import DockerProvider
from thunderagent_core.environments.exec import Executor
from thunderagent_core.environments.ledger_store import Store
from thunderagent_core.environments.manager.manager import Manager
from thunderagent_core.environments.process.provider import ProcessProvider
from thunderagent_core.server import environment_setup, serve  # noqa: F401

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from thunderagent_core.environments.base import Place, Provider
    from thunderagent_core.environments.commands import ExecRequest, ExecResult
    from thunderagent_core.environments.ledger_store import Job
    from thunderagent_core.environments.spec import EnvironmentSpec

EFFECTS = (
    "create",
    "start",
    "spawn",
    "freeze",
    "thaw",
    "snapshot",
    "snapshot_is_whole",
    "drop_snapshot",
    "destroy",
)
_WITHOUT_EFFECT = frozenset({"load", "check_owner", "fates", "measured"})


class Points:
    """Writes down every point that this process passes, and kills it at one of them.

    Args:
        journal: descriptor of a file, which outlives the process.
        kill: the point; None: none.
        after_s: for a point that begins with ``during``: how long after the beginning.
    """

    def __init__(self, journal: int, kill: str | None, after_s: float) -> None:
        self._journal = journal
        self._kill = kill
        self._after_s = after_s
        self._passed: dict[str, int] = {}
        self._lock = threading.Lock()

    def reach(self, name: str) -> str:
        """Pass a point, or die there; return its full name."""
        with self._lock:
            self._passed[name] = number = self._passed.get(name, 0) + 1
            point = f"{name} #{number}"
            self._note(point)
            if point == self._kill:
                self._die()
        return point

    async def around(self, name: str, work: Awaitable[Any]) -> Any:
        """Do something that is surrounded by points."""
        self.reach(f"before {name}")
        began = time.monotonic()
        point = f"during {name} #{self._passed[f'before {name}']}"
        if point == self._kill:
            timer = threading.Timer(self._after_s, self._die)
            timer.daemon = True
            timer.start()
        result = await work
        self._note(f"{point} = {time.monotonic() - began:.6f}")
        self.reach(f"after {name}")
        return result

    def _note(self, text: str) -> None:
        os.write(self._journal, f"{text}\n".encode())

    def _die(self) -> None:
        self._note("killed")
        os.kill(os.getpid(), signal.SIGKILL)


def pointed_store(points: Points) -> type[Store]:
    """Return a store every change of which is a transaction of its own, between two points."""

    class PointedStore(Store):
        def run(self, jobs: Sequence[Job]) -> list[Any]:
            return [self._run_one(job) for job in jobs]

        def _run_one(self, job: Job) -> Any:
            name = job.__qualname__.split(".")[1]
            if name in _WITHOUT_EFFECT:
                return super().run([job])[0]
            points.reach(f"before commit {name}")
            (result,) = super().run([job])
            points.reach(f"after commit {name}")
            return result

    return PointedStore


def pointed_provider(provider: type[Any], points: Points) -> type[Any]:
    """Return a provider every effect of which lies between two points."""

    def wrap(name: str) -> Callable[..., Awaitable[Any]]:
        effect = getattr(provider, name)

        @functools.wraps(effect)
        async def wrapped(self: Any, *args: Any, **options: Any) -> Any:
            return await points.around(name, effect(self, *args, **options))

        return wrapped

    return type(provider.__name__, (provider,), {name: wrap(name) for name in EFFECTS})


def pointed_manager(points: Points) -> type[Manager]:
    """Return a manager whose commands lie between points, and which pauses and restores all programs on a signal."""

    class PointedExecutor(Executor):
        async def run(self, request: ExecRequest) -> ExecResult:
            result: ExecResult = await points.around("command", super().run(request))
            return result

    class PointedManager(Manager):
        @classmethod
        async def start(cls, *args: Any, **seams: Any) -> PointedManager:
            def make(provider: Provider, place: Place, spec: EnvironmentSpec) -> Executor:
                return PointedExecutor(provider, place, env=spec.env, workdir=spec.workdir)

            manager = await super().start(*args, make_executor=make, **seams)
            loop = asyncio.get_running_loop()
            loop.add_signal_handler(signal.SIGUSR1, lambda: [manager.paused(one.id) for one in manager.live_programs()])
            loop.add_signal_handler(
                signal.SIGUSR2, lambda: [manager.restored(one.id) for one in manager.live_programs()]
            )
            return manager

    return PointedManager


def run_server(order: dict[str, Any]) -> None:
    """Be a server until the end."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGCHLD):
        signal.signal(number, signal.SIG_DFL)
    os.setsid()
    output = os.open(order["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    silence = os.open(os.devnull, os.O_RDONLY)
    for source, target in ((silence, 0), (output, 1), (output, 2)):
        os.dup2(source, target)
    journal = os.open(order["journal"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    points = Points(journal, order.get("kill"), order.get("after_s", 0.0))
    ledger.Store = pointed_store(points)  # type: ignore[misc]
    environment_setup.ProcessProvider = pointed_provider(ProcessProvider, points)  # type: ignore[misc]
    environment_setup.DockerProvider = pointed_provider(DockerProvider, points)  # type: ignore[misc]
    environment_setup.Manager = pointed_manager(points)  # type: ignore[misc]
    build_app()(["serve", *order["arguments"]], prog_name="thunderagent")


def main() -> None:
    for line in sys.stdin:
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        pid = os.fork()
        if not pid:
            try:
                run_server(json.loads(line))
            finally:
                sys.stdout.flush()
                os._exit(0)
        sys.stdout.write(f"{pid}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
