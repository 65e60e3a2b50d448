"""Put an arm in front of the engine and say how agents talk to it."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from benchmarks.closed_loop import router
from benchmarks.closed_loop.arms import DIRECT, ROUTER
from thunderagent_core.config.model import settings
from thunderagent_core.demo.agents import Target
from thunderagent_core.demo.children import child
from thunderagent_core.demo.comparison import TIMES

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from pathlib import Path

    from benchmarks.closed_loop.arms import ArmSpec
    from benchmarks.closed_loop.calibration import Calibration
    from benchmarks.closed_loop.engine import Engine

_SCALED: Final = {
    **{flag.removeprefix("--").replace("-", "_"): seconds for flag, seconds in TIMES.items()},
    "ttl_s": 10.0,
}
"""Times of our server that belong to the engine's clock, with their defaults."""

_PROCESS: Final = ("--port", "0", "--log-level", "warning", "--startup-wait-s", "60", "--shutdown-grace-s", "1")


@dataclass(frozen=True, slots=True)
class Stage:
    """An arm that is running.

    Args:
        target: for the agents.
        check: to be awaited after a run, with the number of requests; raises RouterError where the arm did not do
            what it is measured for.
        setup: what was set, for the record.
    """

    target: Target
    check: Callable[[int], Awaitable[None]]
    setup: dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Ground:
    """What all arms of a session stand on.

    Args:
        engine: behind all of them.
        calibration: of the engine; only vllm-router needs one.
        binary: vllm-router's program, likewise.
        request_timeout_s: longest time for a request.
    """

    engine: Engine
    calibration: Calibration | None = None
    binary: Path | None = None
    request_timeout_s: float = 900.0


@contextlib.asynccontextmanager
async def staged(spec: ArmSpec, ground: Ground, number: int) -> AsyncIterator[Stage]:
    """Start an arm for the run of this number. Raises ChildError or RouterError."""
    if spec.kind == DIRECT:
        yield Stage(_target(ground, number, ground.engine.url), _nothing, {})
    elif spec.kind == ROUTER:
        async with _router(spec, ground, number) as stage:
            yield stage
    else:
        options = server_options(spec, ground.engine)
        async with child("serve", "--backend", ground.engine.url, *_PROCESS, *options) as url:
            target = _target(ground, number, url, id_field="program_id", views=True, release=True)
            yield Stage(target, _nothing, {"options": options})


def server_options(spec: ArmSpec, engine: Engine) -> list[str]:
    """Return what our server is told for an arm: nothing but the policy where all is default."""
    values = dict(spec.settings)
    if engine.speed != 1:
        for name, default_s in _SCALED.items():
            values[name] = f"{float(values.get(name, default_s)) / engine.speed:g}"
    known = settings()
    flags = {"--policy": spec.kind, **{known[name].flag: value for name, value in values.items()}}
    return [text for flag, value in flags.items() for text in (flag, value)]


@contextlib.asynccontextmanager
async def _router(spec: ArmSpec, ground: Ground, number: int) -> AsyncIterator[Stage]:
    if ground.calibration is None or ground.binary is None:
        raise router.RouterError("vllm-router needs a calibrated engine and its program")
    config = router.configuration(spec, ground.engine, ground.calibration)
    async with router.running_router(ground.binary, ground.engine, config) as url:

        async def check(requests: int) -> None:
            await router.check_diagnostics(url, config, requests)

        yield Stage(_target(ground, number, url, id_header=router.IDENTITY_HEADER), check, {"config": config})


def _target(ground: Ground, number: int, url: str, **identity: Any) -> Target:
    """Return a target: without identity the agents say nothing but what plain vLLM knows."""
    silent: dict[str, Any] = {"id_field": None, "views": False, "release": False}
    return Target(
        url=url,
        model=ground.engine.model,
        prefix=f"run{number:03}",
        salt=f"Run {number:03}. ",  # of equal length: should the cache keep anything, no run profits from another
        speed=ground.engine.speed,
        # Answers have the planned length, whatever the model would like to say.
        extra_body={"ignore_eos": True, "temperature": 0},
        request_timeout_s=ground.request_timeout_s,
        **(silent | identity),
    )


async def _nothing(_requests: int) -> None:
    """Check nothing: agents that failed are seen by themselves."""
