"""Tools that are real commands: where they run, running them, and what the server says of their sandboxes."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote

from thunderagent_core.demo.requests import RequestFailedError, call_json, get_text
from thunderagent_core.transport.client import ConnectionPool

if TYPE_CHECKING:
    from thunderagent_core.transport.messages import Headers

_OK: Final = 200
_NAME: Final = "shell"
_MEMORY_BYTES: Final = 64 << 20
_DISK_BYTES: Final = 1 << 20
_PATIENCE_S: Final = 120.0
"""Longest wait for a sandbox, and beyond its own time for a tool."""
_AGAIN_S: Final = 0.5
_SETTLE_S: Final = 60.0
"""Longest wait for the last sandbox to go."""
_LOOK_S: Final = 0.1
_SCRIPT: Final = 'sleep "$1"; printf "%s\\n" "$2" >> observations; wc -l < observations; tail -n 1 observations'
"""A tool: it takes its time, adds what it found to what its sandbox has seen so far, and tells both."""
_METRIC: Final = "thunderagent_environment_"


@dataclass(frozen=True, slots=True)
class Toolbox:
    """Where tools run.

    Args:
        provider: ``docker`` or ``process``, as the server's ``--environments`` has it.
        image: of the sandboxes; None: the provider needs none.
    """

    provider: str
    image: str | None = None

    def declaration(self) -> dict[str, Any]:
        """Return the environment that each program declares with its first request."""
        return {
            "name": _NAME,
            "provider": self.provider,
            "image": self.image,
            "memory_bytes": _MEMORY_BYTES,
            "disk_bytes": _DISK_BYTES,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolFigures:
    """What became of the sandboxes of a run.

    Args:
        made: how many were made.
        start_mean_s: how long that took on average, in our seconds; None where none was made.
        hidden_share: share of those that their programs came to use which were ready by then; None: none was used.
        lost: how many died while they were in use.
        left: how many were still there when all programs had been released and a while had passed.
    """

    made: int
    start_mean_s: float | None
    hidden_share: float | None
    lost: int
    left: int


async def run_tool(
    pool: ConnectionPool, headers: Headers, program_id: str, *, seconds: float, number: int, finding: str
) -> str:
    """Run a program's tool in its sandbox and return what it printed, which has to be ``finding``.

    ``number``: how many tools this one has run, itself included: a blank sandbox would tell another number.

    Raises RequestFailedError where it cannot be run, or prints anything else.
    """
    path = f"/programs/{quote(program_id, safe='')}/environments/{_NAME}/exec"
    body = {
        "command": ["sh", "-c", _SCRIPT, "tool", f"{seconds:.3f}", finding],
        "timeout_s": seconds + _PATIENCE_S,
        "wait_s": _PATIENCE_S,
    }
    deadline = asyncio.get_running_loop().time() + _PATIENCE_S
    while True:
        status, content = await call_json(
            pool, "POST", path, headers, body, timeout_s=seconds + 3 * _PATIENCE_S, repeatable=False
        )
        if _code(content) != "environment_not_ready" or asyncio.get_running_loop().time() > deadline:
            break
        await asyncio.sleep(_AGAIN_S)
    if status != _OK:
        raise RequestFailedError(f"its tool was not run: HTTP {status}: {content}")
    told, _, printed = str(content["stdout"]).partition("\n")
    if content["exit_code"] != 0 or told.strip() != str(number) or printed != f"{finding}\n":
        raise RequestFailedError(f"its sandbox is not what it was: tool {number} printed {content}")
    return printed.rstrip("\n")


async def conclude(url: str) -> ToolFigures:
    """Wait until no sandbox is left of programs that were released, and return the figures.

    Raises RequestFailedError where the server does not answer.
    """
    pool = ConnectionPool(url)
    try:
        left = await _wait_until_gone(pool)
        counts = _counts(await get_text(pool, "/metrics"))
    finally:
        await pool.aclose()
    made, wanted = counts.get("start_seconds_count", 0.0), counts.get("wanted_total", 0.0)
    return ToolFigures(
        made=round(counts.get("made_total", 0.0)),
        start_mean_s=counts["start_seconds_sum"] / made if made else None,
        hidden_share=counts.get("hidden_total", 0.0) / wanted if wanted else None,
        lost=round(counts.get("lost_total", 0.0)),
        left=left,
    )


async def clear(url: str) -> None:
    """Release whoever still has a sandbox, and wait until none is left: for runs that were broken off."""
    pool = ConnectionPool(url)
    try:
        for view in await _environments(pool):
            if view["program_id"] is not None:
                await call_json(pool, "POST", "/programs/release", [], {"program_id": view["program_id"]})
        await _wait_until_gone(pool)
    finally:
        await pool.aclose()


async def _wait_until_gone(pool: ConnectionPool) -> int:
    """Return how many are left when none is, or when it takes too long."""
    deadline = asyncio.get_running_loop().time() + _SETTLE_S
    while True:
        left = len(await _environments(pool))
        if not left or asyncio.get_running_loop().time() > deadline:
            return left
        await asyncio.sleep(_LOOK_S)


async def _environments(pool: ConnectionPool) -> list[dict[str, Any]]:
    status, content = await call_json(pool, "GET", "/environments", [])
    if status != _OK:
        raise RequestFailedError(f"GET /environments: HTTP {status}")
    found: list[dict[str, Any]] = content["environments"]
    return found


def _counts(text: str) -> dict[str, float]:
    """Return the metrics of environments that have no labels, by the rest of their name."""
    lines = [line.split() for line in text.splitlines() if line.startswith(_METRIC) and "{" not in line]
    return {name.removeprefix(_METRIC): float(value) for name, value, *_ in lines}


def _code(content: Any) -> str | None:
    error = content.get("error") if isinstance(content, dict) else None
    return error.get("code") if isinstance(error, dict) else None
