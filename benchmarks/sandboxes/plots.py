"""The results as pictures. Needs matplotlib."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from benchmarks.sandboxes.arms import KEPT, OURS

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from benchmarks.sandboxes.figures import Results

_COLOURS: Final = {OURS: "#2f6f9f", KEPT: "#d59f6a"}
_OTHER: Final = "#a9c3d6"
_MIB: Final = 1 << 20


def draw(results: Results, folder: Path) -> list[Path]:
    """Draw disk over time, and how starts, ends and commands are distributed; return the files."""
    folder.mkdir(parents=True, exist_ok=True)
    made = [_disk(results, folder / "environments-disk.png")] if results.arms else []
    curves = {arm.arm: [r.waited_s for r in arm.programs if r.queued] for arm in results.arms}
    made += _shares(curves, "seconds that a queued program waits for its environment", folder, "environments-start.png")
    ends = {arm.arm: arm.reclaim_s for arm in results.arms if arm.reclaim_s}
    made += _shares(ends, "seconds from release until nothing is left", folder, "environments-end.png")
    commands = {
        f"{one.way}, {one.parallel} in parallel{', pauses' if one.pause_s else ''}": [s * 1000 for s in one.seconds]
        for one in results.latencies
    }
    return made + _shares(commands, "milliseconds of a command that does nothing", folder, "environments-exec.png")


def _disk(results: Results, path: Path) -> Path:
    figure, axes = _canvas()
    for arm in results.arms:
        times = [moment.at_s for moment in arm.moments]
        colour = _COLOURS.get(arm.arm, _OTHER)
        axes.plot(times, [moment.total / _MIB for moment in arm.moments], color=colour, label=arm.arm)
        if arm.arm == OURS:
            needed = [moment.needed / _MIB for moment in arm.moments]
            axes.plot(times, needed, color="#333333", linewidth=0.8, label="programs' own use")
    axes.set(xlabel="seconds", ylabel="MiB allocated by environments", ylim=(0, None))
    axes.legend(loc="best", frameon=False)
    return _save(figure, axes, path)


def _shares(curves: dict[str, Sequence[float]], label: str, folder: Path, name: str) -> list[Path]:
    """Draw which share of values is at most so large."""
    curves = {title: values for title, values in curves.items() if values}
    if not curves:
        return []
    figure, axes = _canvas()
    for title, values in curves.items():
        ordered = sorted(values)
        shares = [(place + 1) / len(ordered) for place in range(len(ordered))]
        axes.plot(ordered, shares, drawstyle="steps-post", color=_COLOURS.get(title), label=title)
    axes.set(xlabel=label, ylabel="share", ylim=(0, 1.02), xlim=(0, None))
    axes.legend(loc="lower right", frameon=False)
    return [_save(figure, axes, folder / name)]


def _canvas() -> tuple[Any, Any]:
    from matplotlib.figure import Figure  # noqa: PLC0415 - an extra that only plots need

    figure = Figure(figsize=(8, 3.4), layout="constrained")
    return figure, figure.subplots()


def _save(figure: Any, axes: Any, path: Path) -> Path:
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=130)
    return path
