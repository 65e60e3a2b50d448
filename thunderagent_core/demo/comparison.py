"""The demo: the same agents through one server after another, each with another policy, over one engine."""

from __future__ import annotations

import tempfile
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Protocol

from thunderagent_core.demo.agents import Target, run_agents
from thunderagent_core.demo.children import child
from thunderagent_core.demo.requests import RequestFailedError, call_json
from thunderagent_core.demo.summary import Summary, summarize
from thunderagent_core.demo.tools import Toolbox, ToolFigures, clear, conclude
from thunderagent_core.demo.workload import Workload
from thunderagent_core.transport.client import ConnectionPool

if TYPE_CHECKING:
    from thunderagent_core.demo.records import RequestRecord

_OK: Final = 200
_BLOCK_TOKENS: Final = 32
TIMES: Final = {
    "--tick-s": 1.0,
    "--decay-interval-s": 5.0,
    "--home-window-s": 10.0,
    "--max-wait-s": 300.0,
    "--poll-interval-s": 1.0,
}
"""Times of the server, in seconds, that belong to the engine's clock and run as much faster as it does."""


class DemoError(Exception):
    """The demo cannot go on; the text says why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DemoSettings:
    """What the demo compares.

    Args:
        workload: what the agents do.
        policies: one arm for each, in this order.
        backend: URL of an engine to use; None: a simulated one is started.
        pool_tokens: KV cache of the simulated engine.
        speed: how many times as fast as its model the simulated engine runs.
        tools: where the agents' tools run; None: a tool is only waited for.
    """

    workload: Workload = field(default_factory=Workload)
    policies: tuple[str, ...] = ("passthrough", "paper")
    backend: str | None = None
    pool_tokens: int = 16384
    speed: float = 8.0
    tools: Toolbox | None = None


@dataclass(frozen=True, slots=True)
class Arm:
    """One policy and what came of it."""

    policy: str
    summary: Summary
    errors: tuple[str, ...]
    tools: ToolFigures | None = None


class Watcher(Protocol):
    """Is told how a demo goes on."""

    def arm_started(self, policy: str) -> None:
        """An arm begins."""
        ...

    def request_ended(self, record: RequestRecord) -> None:
        """A request of the present arm has ended."""
        ...

    def arm_ended(self, arm: Arm) -> None:
        """An arm is over."""
        ...


async def compare(settings: DemoSettings, watcher: Watcher) -> list[Arm]:
    """Run all arms. Raises DemoError, and ChildError where a process does not start."""
    async with AsyncExitStack() as stack:
        engine = settings.backend
        if engine is None:
            engine = await stack.enter_async_context(child(*_engine_arguments(settings)))
        arms: list[Arm] = []
        for number, policy in enumerate(settings.policies):
            watcher.arm_started(policy)
            await _reset_prefix_cache(engine)
            arms.append(await _run_arm(settings, engine, number, watcher))
            watcher.arm_ended(arms[-1])
        return arms


async def _run_arm(settings: DemoSettings, engine: str, number: int, watcher: Watcher) -> Arm:
    policy, figures = settings.policies[number], None
    speed = settings.speed if settings.backend is None else 1.0
    async with AsyncExitStack() as stack:
        # The directory goes last: its server has ended by then.
        arguments = [*_server_arguments(engine, policy, speed), *_tool_arguments(settings.tools, stack)]
        url = await stack.enter_async_context(child("serve", *arguments))
        target = Target(
            url=url,
            model=await _first_model(url),
            prefix=f"demo-{policy}",
            salt=f"Run {number:03}. ",  # where the cache cannot be reset, no arm profits from the one before
            speed=speed,
            extra_body={"ignore_eos": True},
            tools=settings.tools,
        )
        try:
            result = await run_agents(target, settings.workload, watcher.request_ended)
        except BaseException:
            if settings.tools is not None:
                with suppress(RequestFailedError):
                    await clear(url)
            raise
        if settings.tools is not None:
            figures = await _concluded(url)
    errors = dict.fromkeys(program.error for program in result.programs if program.error is not None)
    if figures is not None and figures.left:
        errors[f"{figures.left} sandboxes were left behind"] = None
    return Arm(policy, summarize(result), tuple(errors), figures)


def _server_arguments(engine: str, policy: str, speed: float) -> list[str]:
    scaled = [text for flag, seconds in TIMES.items() for text in (flag, f"{seconds / speed:g}")]
    options = ["--port", "0", "--backend", engine, "--policy", policy, "--log-level", "warning"]
    return [*options, *scaled, "--startup-wait-s", "20", "--shutdown-grace-s", "1"]


def _tool_arguments(tools: Toolbox | None, stack: AsyncExitStack) -> list[str]:
    """Return what a server needs for tools; its directory is removed when the stack is closed."""
    if tools is None:
        return []
    state = stack.enter_context(tempfile.TemporaryDirectory(prefix="thunderagent-demo-"))
    return ["--environments", tools.provider, "--state-dir", state, "--environment-disk-floor-bytes", "0"]


async def _concluded(url: str) -> ToolFigures:
    try:
        return await conclude(url)
    except RequestFailedError as error:
        raise DemoError(f"{url}: {error}") from error


def _engine_arguments(settings: DemoSettings) -> list[str]:
    blocks = -(-settings.pool_tokens // _BLOCK_TOKENS) + 1  # the engine keeps one for itself
    sizes = ["--num-blocks", str(blocks), "--block-tokens", str(_BLOCK_TOKENS), "--max-num-seqs", "64"]
    return ["engine", "--port", "0", "--speed", f"{settings.speed:g}", *sizes]


async def _reset_prefix_cache(engine: str) -> None:
    """Empty the engine's cache, so that all arms start alike; not every engine offers it."""
    await _ask(engine, "POST", "/reset_prefix_cache")


async def _first_model(url: str) -> str:
    content = await _ask(url, "GET", "/v1/models")
    try:
        return str(content["data"][0]["id"])
    except (KeyError, IndexError, TypeError):
        raise DemoError("the engine names no model; is it up?") from None


async def _ask(url: str, method: str, path: str) -> Any:
    pool = ConnectionPool(url)
    try:
        status, content = await call_json(pool, method, path, [])
    except RequestFailedError as error:
        raise DemoError(f"{url}: {error}") from error
    finally:
        await pool.aclose()
    return content if status == _OK else None
