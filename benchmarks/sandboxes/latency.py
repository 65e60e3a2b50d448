"""How long a command takes that does nothing, through the whole server and without it."""

from __future__ import annotations

import asyncio
import random
import time
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from benchmarks.sandboxes.arms import Ground, Running, running
from benchmarks.sandboxes.load import NAME
from benchmarks.sandboxes.witness import installation_of
from thunderagent_core.environments.base import Place
from thunderagent_core.environments.docker.provider import DockerProvider
from thunderagent_core.environments.exec import ExecRequest, Executor
from thunderagent_core.environments.process.provider import ProcessProvider

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence
    from typing import Any

    from thunderagent_core.client.environment_views import EnvironmentView
    from thunderagent_core.environments.base import Provider

_COMMAND: Final = "true"
_WARM_UP: Final = 5


@dataclass(slots=True)
class Latencies:
    """Of commands that all took the same way.

    Args:
        way: through the SDK and the server, or the executor alone.
        parallel: environments at work at the same time.
        pause_s: mean pause in seconds between two commands of one environment; 0: none.
        seconds: how long each command took.
        per_s: commands a second, all environments together.
    """

    way: str
    parallel: int
    pause_s: float
    seconds: list[float]
    per_s: float


async def measure(
    ground: Ground, spec: Mapping[str, Any], parallel: int, commands: int, pause_s: float
) -> tuple[list[Latencies], list[str]]:
    """Run commands in environments of a server of their own; return the latencies and what that server left."""
    found: list[Latencies] = []
    async with running(ground, parallel) as here, AsyncExitStack() as stack:
        views: list[EnvironmentView] = []
        through: list[Callable[[], Awaitable[int]]] = []
        for number in range(parallel):
            program = await stack.enter_async_context(here.client.program(f"x{number}", environments=[spec]))
            sandbox = program.environment(NAME)
            views.append(await sandbox.wait_ready())
            through.append(lambda sandbox=sandbox: _by_sdk(sandbox))
        provider = _provider(ground, here)
        stack.push_async_callback(provider.aclose)
        alone = [await _executor(stack, provider, view, installation_of(here.state)) for view in views]
        for way, runs in (("SDK", through), ("executor", alone)):
            for width, pause in ((1, 0.0), (parallel, pause_s), (parallel, 0.0)):
                found.append(await _timed(way, runs[:width], commands, pause))
    return found, here.left


async def _by_sdk(sandbox: Any) -> int:
    return int((await sandbox.exec(_COMMAND)).exit_code)


def _provider(ground: Ground, here: Running) -> Provider:
    installation = installation_of(here.state)
    if ground.docker is not None:
        return DockerProvider(installation=installation, endpoints=(ground.docker.url,))
    return ProcessProvider(installation=installation, root=here.state / "sandboxes")


async def _executor(
    stack: AsyncExitStack, provider: Provider, view: EnvironmentView, installation: str
) -> Callable[[], Awaitable[int]]:
    """Return what runs the command by an executor of our own, beside that of the server."""
    executor = Executor(provider, Place(view.endpoint, f"thunder-{installation}-{view.id}"), workdir="/workspace")
    stack.push_async_callback(executor.aclose)

    async def run() -> int:
        return (await executor.run(ExecRequest(command=_COMMAND))).exit_code

    return run


async def _timed(way: str, runs: Sequence[Callable[[], Awaitable[int]]], commands: int, pause_s: float) -> Latencies:
    """Run ``commands`` commands, each environment one after another."""
    each = max(1, commands // len(runs))
    chance = random.Random(len(runs))
    seconds: list[float] = []

    async def one(run: Callable[[], Awaitable[int]], count: int) -> None:
        for _ in range(count):
            if pause_s:
                await asyncio.sleep(chance.expovariate(1 / pause_s))
            began = time.perf_counter()
            assert await run() == 0
            seconds.append(time.perf_counter() - began)

    await asyncio.gather(*(one(run, _WARM_UP) for run in runs))
    seconds.clear()
    began = time.perf_counter()
    await asyncio.gather(*(one(run, each) for run in runs))
    return Latencies(way, len(runs), pause_s, seconds, len(seconds) / (time.perf_counter() - began))
