"""vLLM's own router with its program scheduling: its configuration, its process, and proof that it schedules.

Its documentation (docs/program_scheduling.md of vllm-project/router) asks for three things: the switch, the KV capacity
of a rank, and coefficients that were measured on the engine at hand. docs/benchmarks.md tells how they are set here.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
import tempfile
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Final

from benchmarks.closed_loop.arms import router_setting
from benchmarks.load.arms import ROUTERS, free_port, install
from benchmarks.testbed import guard
from thunderagent_core.demo.requests import RequestFailedError, call_json
from thunderagent_core.transport.client import ConnectionPool

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from benchmarks.closed_loop.arms import ArmSpec
    from benchmarks.closed_loop.calibration import Calibration
    from benchmarks.closed_loop.engine import Engine

IDENTITY_HEADER: Final = "X-Session-ID"
"""One of the identities of ``auto``. vLLM 0.32 refuses the canonical one, an object inside ``vllm_xargs``."""

TIMES: Final = {
    "metrics_interval_seconds": 1.0,
    "queue_timeout_seconds": 600.0,
    "force_resume_timeout_seconds": 300.0,
    "paused_retention_ttl_seconds": 1800.0,
    "shared_prefix_freshness_warmup_seconds": 100.0,
    "max_acting_ttl_seconds": 10.0,
}
"""Times that belong to the engine's clock, with their defaults; coefficients are measured on ours."""

_DECODE_ALPHA: Final = 0.15
"""Not to be had by calibration, says the documentation; its default, given so that nothing is left to defaults."""

_WINDOW: Final = 100
"""Its default: requests that it must have seen before it protects the cache of programs whose tools run."""

_OK: Final = 200
_START_S: Final = 60.0
_STOP_S: Final = "5"
_TAIL_CHARS: Final = 2000


class RouterError(Exception):
    """The router did not start, or does not do what it is measured for."""


def configuration(spec: ArmSpec, engine: Engine, calibration: Calibration) -> dict[str, Any]:
    """Return its scheduling configuration: what its documentation recommends, measured, then what the arm says."""
    config: dict[str, Any] = {
        "program_scheduling_enable_key": "auto",
        "global_queue": True,
        "resume_order": "mru",
        # vLLM keeps one block for itself.
        "token_capacity_per_dp_rank": engine.capacity_tokens - engine.block_tokens,
        "prefill_cost_model": {
            "intercept_seconds": calibration.prefill_fixed_s,
            "linear_seconds_per_1k_tokens": calibration.prefill_linear_s,
            "quadratic_seconds_per_1k_tokens_squared": calibration.prefill_quadratic_s,
            "decode_throughput_alpha": _DECODE_ALPHA,
        },
        "decode_throughput_model": {
            "fixed_step_seconds": calibration.step_fixed_s,
            "batch_step_seconds_per_request": calibration.step_request_s,
            "context_step_seconds_per_token": calibration.step_token_s,
        },
        "stats_window_size": _WINDOW,
        **TIMES,
    }
    for key, text in spec.settings:
        group, dot, name = key.partition(".")
        inner, last = (config[group], name) if dot else (config, key)
        inner[last] = router_setting(text)
    return config | {name: config[name] / engine.speed for name in TIMES}


def program(cache: Path) -> Path:
    """Return the router's program, installed from PyPI when first needed."""
    return install(ROUTERS, cache / "routers") / "vllm-router"


def command(binary: Path, engine: Engine, port: int, config: dict[str, Any]) -> list[str]:
    """Return its command line."""
    return [
        *(str(binary), "--worker-urls", engine.url, "--host", "127.0.0.1", "--port", str(port)),
        *("--prometheus-host", "127.0.0.1", "--prometheus-port", str(free_port())),
        *("--policy", "consistent_hash", "--log-level", "warning", "--enable-program-scheduling"),
        *("--program-scheduling-config-json", json.dumps(config, separators=(",", ":"))),
    ]


@contextlib.asynccontextmanager
async def running_router(binary: Path, engine: Engine, config: dict[str, Any]) -> AsyncIterator[str]:
    """Run it and yield its URL. It ends with us, however we end. Raises RouterError."""
    port = free_port()
    with tempfile.TemporaryFile() as log:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-I", str(Path(guard.__file__)), "", _STOP_S),
            *command(binary, engine, port, config),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=log,
            start_new_session=True,
        )
        try:
            await _wait_until_ready(process, f"http://127.0.0.1:{port}", log)
            yield f"http://127.0.0.1:{port}"
        finally:
            assert process.stdin is not None
            process.stdin.close()  # which is how the guard learns that it is over
            await process.wait()


async def _wait_until_ready(process: asyncio.subprocess.Process, url: str, log: IO[bytes]) -> None:
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_START_S):
            while process.returncode is None:
                with contextlib.suppress(RequestFailedError):
                    if (await _get(url, "/v1/models"))[0] == _OK:
                        return
                await asyncio.sleep(0.1)
    log.seek(0)
    raise RouterError(f"vllm-router did not start: {log.read().decode(errors='replace')[-_TAIL_CHARS:]}")


async def check_diagnostics(url: str, config: dict[str, Any], requests: int) -> None:
    """Raise RouterError unless the router has this capacity and took this many requests for programs'.

    It ignores settings that it does not know and passes requests without identity on, both without a word.
    """
    status, content = await _get(url, "/scheduling/diagnostics")
    if status != _OK or len(content["ranks"]) != 1:
        raise RouterError(f"its diagnostics are not those of one rank: status {status}")
    (rank,) = content["ranks"]
    if rank["configured_token_capacity"] != config["token_capacity_per_dp_rank"]:
        raise RouterError(f"it counts with a capacity of {rank['configured_token_capacity']} tokens")
    samples = rank["rolling"]["request_samples"]
    if samples < min(requests, config["stats_window_size"]):
        raise RouterError(f"it took {samples} of {requests} requests for a program's")


async def _get(url: str, path: str) -> tuple[int, Any]:
    pool = ConnectionPool(url)
    try:
        return await call_json(pool, "GET", path, [])
    finally:
        await pool.aclose()
