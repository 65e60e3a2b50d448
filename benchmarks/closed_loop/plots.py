"""The figures as pictures. Needs matplotlib."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from benchmarks.closed_loop.arms import DIRECT, PAPER, PASSTHROUGH, ROUTER
from benchmarks.closed_loop.figures import THROUGHPUT, rows

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from benchmarks.closed_loop.figures import Row, Run

_OURS: Final = "#2f6f9f"
_OTHERS: Final = "#a9c3d6"
_PLAIN: Final = "#c9c9c9"
_RIVAL: Final = "#d59f6a"
_SECOND: Final = "#e0b354"


def draw(runs: Sequence[Run], folder: Path) -> list[Path]:
    """Draw throughput, hit rate and latency of all arms that did not fail; return the files."""
    made = [row for row in rows(runs) if not row.errors and row.spreads]
    folder.mkdir(parents=True, exist_ok=True)
    return [
        _bars(made, runs, THROUGHPUT, "steps per minute", folder / "agents-throughput.png"),
        _bars(made, runs, "hit_rate", "prefix cache hit rate", folder / "agents-hit-rate.png"),
        _latency(made, folder / "agents-latency.png"),
    ]


def _bars(made: Sequence[Row], runs: Sequence[Run], name: str, label: str, path: Path) -> Path:
    """Draw one figure: medians as bars, their spread as a line, each seed as a dot."""
    figure, axes = _canvas(len(made))
    for place, row in enumerate(reversed(made)):
        if name not in row.spreads:
            continue
        spread = row.spreads[name]
        axes.barh(place, spread.median, color=_colour(row.arm))
        axes.plot([spread.low, spread.high], [place, place], color="#333333", linewidth=1.2)
        seeds = [run.figures[name] for run in runs if run.arm == row.arm and run.figures.get(name) is not None]
        axes.plot(seeds, [place] * len(seeds), "k.", markersize=4)
    return _save(figure, axes, made, label, path)


def _latency(made: Sequence[Row], path: Path) -> Path:
    """Draw turn latency and time to first token: from the median to the 99th percentile, a mark at the 90th."""
    figure, axes = _canvas(len(made))
    kinds = (("latency", 0.16, _OURS, "turn latency"), ("first_token", -0.16, _SECOND, "time to first token"))
    for name, offset, colour, label in kinds:
        for place, row in enumerate(reversed(made)):
            values = [row.spreads.get(f"{name}_{percentile}_s") for percentile in ("p50", "p90", "p99")]
            p50, p90, p99 = (0.0 if value is None else value.median for value in values)
            shown = label if place == 0 else None
            axes.barh(place + offset, p99 - p50, left=p50, height=0.3, color=colour, label=shown)
            axes.plot([p90, p90], [place + offset - 0.15, place + offset + 0.15], color="#333333", linewidth=1.2)
    if made:
        axes.legend(loc="best", frameon=False)
    return _save(figure, axes, made, "seconds: p50 to p99, p90 marked", path)


def _canvas(arms: int) -> tuple[Any, Any]:
    from matplotlib.figure import Figure  # noqa: PLC0415 - an extra that only plots need

    figure = Figure(figsize=(8, 1 + 0.45 * max(arms, 1)), layout="constrained")
    return figure, figure.subplots()


def _save(figure: Any, axes: Any, made: Sequence[Row], label: str, path: Path) -> Path:
    axes.set_yticks(range(len(made)), [row.arm for row in reversed(made)])
    axes.set_xlabel(label)
    axes.set_xlim(left=0)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=150)
    return path


def _colour(arm: str) -> str:
    kinds = {PAPER: _OURS, ROUTER: _RIVAL, PASSTHROUGH: _PLAIN, DIRECT: _PLAIN}
    return kinds.get(arm.partition(":")[0], _OTHERS)
