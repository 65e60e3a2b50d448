"""Medians, ratios and goals; as a table, as JSON, as a plot."""

from __future__ import annotations

import json
import os
import platform
import statistics
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from rich.table import Table

from benchmarks.load.session import DIRECT, Result, Sample

if TYPE_CHECKING:
    from pathlib import Path

REFERENCE = "smg"
GOALS = {"requests_per_s": 4_000.0, "chunks_per_s": 120_000.0}
"""What the complete server must pass on one core; and in both no less than the reference of the same run."""


@dataclass(frozen=True, slots=True)
class Spread:
    """Of one quantity over the rounds."""

    median: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Row:
    """One arm. Ratios are to the reference in the same round; added latency is over the direct arm's."""

    arm: str
    requests_per_s: Spread
    chunks_per_s: Spread
    requests_ratio: float | None
    chunks_ratio: float | None
    cpu_us_per_request: float
    cpu_us_per_chunk: float
    added_p50_us: float
    added_p99_us: float
    memory_bytes: int | None
    others: float


def rows(result: Result) -> list[Row]:
    """Summarise each arm that has samples, in the order of their speed."""
    by_arm: dict[str, dict[int, Sample]] = {}
    for sample in result.samples:
        by_arm.setdefault(sample.arm, {})[sample.round] = sample
    made = [_row(name, by_arm, result.memory_bytes.get(name)) for name in by_arm]
    return sorted(made, key=lambda row: -row.requests_per_s.median)


def _row(name: str, by_arm: dict[str, dict[int, Sample]], memory_bytes: int | None) -> Row:
    own, direct = by_arm[name], by_arm.get(DIRECT, {})

    def spread(quantity: str) -> Spread:
        values = [getattr(sample, quantity) for sample in own.values()]
        return Spread(statistics.median(values), min(values), max(values))

    def ratio(quantity: str) -> float | None:
        pairs = [(sample, by_arm.get(REFERENCE, {}).get(number)) for number, sample in own.items()]
        values = [getattr(a, quantity) / getattr(b, quantity) for a, b in pairs if b is not None]
        return statistics.median(values) if values else None

    def added(quantity: str) -> float:
        values = [
            getattr(sample, quantity) - getattr(direct[number], quantity)
            for number, sample in own.items()
            if number in direct
        ]
        return statistics.median(values) if values else float("nan")

    return Row(
        arm=name,
        requests_per_s=spread("requests_per_s"),
        chunks_per_s=spread("chunks_per_s"),
        requests_ratio=ratio("requests_per_s"),
        chunks_ratio=ratio("chunks_per_s"),
        cpu_us_per_request=spread("cpu_us_per_request").median,
        cpu_us_per_chunk=spread("cpu_us_per_chunk").median,
        added_p50_us=added("latency_p50_us"),
        added_p99_us=added("latency_p99_us"),
        memory_bytes=memory_bytes,
        others=spread("others").median,
    )


def table(result: Result) -> Table:
    """Return what a terminal shows: medians, with the least and the greatest in brackets."""
    title = f"Proxies on one core: {result.plan['connections']} connections, {result.plan['prompt_bytes']} B prompts"
    view = Table(title=title, caption=_caption(result))
    for heading in ("arm", "requests/s", "× smg", "CPU µs", "chunks/s", "× smg", "CPU µs", "added p50", "p99", "MB"):
        view.add_column(heading, justify="left" if heading == "arm" else "right")
    for row in rows(result):
        proxied = row.arm != DIRECT
        view.add_row(
            row.arm,
            _spread(row.requests_per_s),
            _ratio(row.requests_ratio),
            f"{row.cpu_us_per_request:.0f}" if proxied else "",
            _spread(row.chunks_per_s),
            _ratio(row.chunks_ratio),
            f"{row.cpu_us_per_chunk:.2f}" if proxied else "",
            f"{row.added_p50_us:.0f} µs" if proxied else "",
            f"{row.added_p99_us:.0f} µs" if proxied else "",
            f"{row.memory_bytes / 1e6:.0f}" if row.memory_bytes is not None else "",
        )
    for name, errors in result.failures.items():
        view.add_row(name, f"failed {len(errors)}×", style="red")
    return view


def _caption(result: Result) -> str:
    others = statistics.median(sample.others for sample in result.samples) if result.samples else 0.0
    return (
        f"Medians (least–greatest) of {result.plan['rounds']} rounds of {result.plan['seconds']:g} s. Streams of "
        f"{result.plan['chunks']} chunks, {result.plan['burst']} written at a time. CPU µs: the proxy's processor "
        f"time for each request or chunk. Added latency at one connection. Other processes used {others:.0%} "
        "of a core."
    )


def _spread(spread: Spread) -> str:
    return f"{spread.median:,.0f} ({spread.low:,.0f}–{spread.high:,.0f})"


def _ratio(ratio: float | None) -> str:
    return "" if ratio is None else f"{ratio:.2f}"


def unmet(result: Result, arm: str) -> list[str]:
    """Say which goals an arm misses; nothing where it meets all."""
    found = [row for row in rows(result) if row.arm == arm]
    if not found:
        return [f"{arm} was not measured"]
    (row,) = found
    missed = []
    for quantity, goal in GOALS.items():
        median = getattr(row, quantity).median
        if median < goal:
            missed.append(f"{arm} passes {median:,.0f} {quantity}; the goal is {goal:,.0f}")
    for quantity in ("requests_ratio", "chunks_ratio"):
        ratio = getattr(row, quantity)
        if ratio is None or ratio < 1:
            missed.append(f"{arm} has a {quantity} of {_ratio(ratio) or 'nothing'} to {REFERENCE}; the goal is 1")
    return missed


def write_json(result: Result, path: Path) -> None:
    """Store every sample, the summary and the machine."""
    path.parent.mkdir(parents=True, exist_ok=True)
    machine = {"python": platform.python_version(), "system": platform.platform(), "cores": os.cpu_count()}
    summary = [asdict(row) for row in rows(result)]
    path.write_text(json.dumps({"machine": machine, "summary": summary, **asdict(result)}, indent=1))


def plot(result: Result, path: Path) -> None:
    """Draw requests/s and chunks/s of all arms, with every round as a dot. Needs matplotlib."""
    from matplotlib.figure import Figure  # noqa: PLC0415 - an extra that only this function needs

    figure = Figure(figsize=(9, 3.5), layout="constrained")
    names = [row.arm for row in rows(result) if row.arm != DIRECT][::-1]
    panels = (("requests_per_s", "requests/s"), ("chunks_per_s", "streamed chunks/s"))
    for axes, (quantity, label) in zip(figure.subplots(1, 2, sharey=True), panels, strict=True):
        for position, name in enumerate(names):
            values = [getattr(sample, quantity) for sample in result.samples if sample.arm == name]
            axes.barh(position, statistics.median(values), color="#7aa6c2")
            axes.plot(values, [position] * len(values), "k.", markersize=4)
        axes.axvline(GOALS[quantity], color="#b03a2e", linestyle="--", linewidth=1)
        axes.set_yticks(range(len(names)), names)
        axes.set_xlabel(label)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)
