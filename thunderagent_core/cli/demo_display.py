"""What the demo shows: progress while it runs, a table at the end."""

from __future__ import annotations

import json
import math
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Final, Self

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from thunderagent_core.cli.tables import console, percent

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import TracebackType

    from rich.progress import TaskID

    from thunderagent_core.demo.comparison import Arm, DemoSettings
    from thunderagent_core.demo.records import RequestRecord
    from thunderagent_core.demo.summary import Summary

_COMPARED: Final = 2
_PLACES: Final = {"docker": "containers", "process": "sandboxes"}


class Display:
    """A progress bar for each arm on standard error; without a terminal, a line for each."""

    def __init__(self, settings: DemoSettings) -> None:
        self._settings = settings
        self._out = console(stderr=True)
        self._bars = Progress(
            TextColumn("{task.description:12}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("steps  {task.fields[note]}"),
            TimeElapsedColumn(),
            console=self._out,
            disable=not self._out.is_terminal,
        )
        self._task: TaskID | None = None
        self._prompt = self._cached = self._requests = 0

    def __enter__(self) -> Self:
        self._out.print(_introduction(self._settings))
        self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bars.stop()

    def arm_started(self, policy: str) -> None:
        """Show a new bar."""
        self._prompt = self._cached = self._requests = 0
        self._task = self._bars.add_task(policy, total=self._settings.workload.steps, note="starting")

    def request_ended(self, record: RequestRecord) -> None:
        """Move the bar on and show the hit rate so far."""
        self._prompt += record.prompt_tokens
        self._cached += record.cached_tokens or 0
        if self._task is not None and self._prompt:
            note = f"hit rate {percent(self._cached / self._prompt)}"
            self._bars.update(self._task, advance=int(record.call == 0), note=note)

    def arm_ended(self, arm: Arm) -> None:
        """Say what came of it."""
        if not self._out.is_terminal:
            self._out.print(f"{arm.policy}: {arm.summary.steps_per_min:.0f} steps/min")


def print_arms(arms: Sequence[Arm], settings: DemoSettings) -> None:
    """Print the table: a column for each arm, and the last one's ratio to the first."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("")
    for arm in arms:
        table.add_column(arm.policy, justify="right")
    if len(arms) >= _COMPARED:
        table.add_column(f"{arms[-1].policy} / {arms[0].policy}", justify="right", style="bold")
    for name, values, show in _rows([arm.summary for arm in arms]):
        cells = [show(value) for value in values]
        if len(arms) >= _COMPARED:
            cells.append(_ratio(values[-1], values[0]))
        table.add_row(name, *cells)
    for name, cells in _tool_rows(arms):
        table.add_row(name, *cells)
    out = console()
    out.print()
    out.print(table)
    if settings.backend is None and settings.speed != 1:
        out.print(f"\nTimes are the engine's: one second of ours is {settings.speed:g} of its.", style="dim")


def print_json(arms: Sequence[Arm], settings: DemoSettings) -> None:
    """Print everything measured."""
    simulated = settings.backend is None
    content = {
        "simulated": simulated,
        "speed": settings.speed if simulated else 1.0,
        "workload": asdict(settings.workload),
        "tools": None if settings.tools is None else asdict(settings.tools),
        "arms": [_arm_content(arm) for arm in arms],
    }
    typer.echo(json.dumps(content))


def _arm_content(arm: Arm) -> dict[str, Any]:
    tools = None if arm.tools is None else asdict(arm.tools)
    return {"policy": arm.policy, **_finite(asdict(arm.summary)), "tools": tools, "errors": arm.errors}


def _introduction(settings: DemoSettings) -> str:
    load = settings.workload
    agents = f"{load.programs} agents, {load.turns} turns each, tools of {load.tool_s:g} s on average"
    if settings.tools is not None:
        agents += f" in {_PLACES[settings.tools.provider]}"
    if settings.backend is not None:
        return f"{agents}, on the engine at {settings.backend}"
    pool = f"{settings.pool_tokens:,} tokens of KV cache"
    return f"{agents}, on a SIMULATED engine: no model runs, {pool}, {settings.speed:g} times as fast as a small CPU"


def _rows(summaries: Sequence[Summary]) -> list[tuple[str, list[float | None], Any]]:
    return [
        ("steps/min", [s.steps_per_min for s in summaries], _whole),
        ("hit rate", [s.hit_rate for s in summaries], percent),
        ("recomputed tokens", [s.recomputed_tokens for s in summaries], _whole),
        ("turn latency p50, s", [s.latency_s.p50 for s in summaries], _tenths),
        ("turn latency p99, s", [s.latency_s.p99 for s in summaries], _tenths),
    ]


def _tool_rows(arms: Sequence[Arm]) -> list[tuple[str, list[str]]]:
    """Return the rows about sandboxes; none where no arm had any."""
    figures = [arm.tools for arm in arms]
    if not any(figures):
        return []
    return [
        ("sandboxes made", [_whole(None if one is None else one.made) for one in figures]),
        ("ready before first use", [percent(None if one is None else one.hidden_share) for one in figures]),
        ("sandboxes left at the end", [_whole(None if one is None else one.left) for one in figures]),
    ]


def _whole(value: float | None) -> str:
    return "-" if value is None or math.isnan(value) else f"{value:,.0f}"


def _tenths(value: float | None) -> str:
    return "-" if value is None or math.isnan(value) else f"{value:.1f}"


def _ratio(value: float | None, base: float | None) -> str:
    if value is None or not base or math.isnan(value) or math.isnan(base):
        return "-"
    return f"{value / base:.2f}×"


def _finite(values: dict[str, Any]) -> dict[str, Any]:
    """Replace NaN, which JSON does not know, by None."""
    return {name: _finite(value) if isinstance(value, dict) else _number(value) for name, value in values.items()}


def _number(value: Any) -> Any:
    return None if isinstance(value, float) and math.isnan(value) else value
