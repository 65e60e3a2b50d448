"""What was seen, as figures, and which of them miss their goals."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from benchmarks.sandboxes.arms import OURS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from benchmarks.sandboxes.arms import ArmResult
    from benchmarks.sandboxes.latency import Latencies

MOST_DISK_RATIO: Final = 1.15
LEAST_HIDDEN: Final = 0.9
MOST_RECLAIM_P99_S: Final = 2.0
MOST_EXEC_P50_MS: Final = 3.0
MOST_EXEC_P99_MS: Final = 30.0

_WINDOW_S: Final = 10.0
_MIB: Final = 1 << 20


@dataclass(slots=True)
class Results:
    """Everything of one call of the benchmark.

    Args:
        about: what was run, on what.
        arms: one after another.
        latencies: of commands that do nothing.
        left: what the server that ran those has left.
    """

    about: dict[str, Any]
    arms: list[ArmResult] = field(default_factory=list)
    latencies: list[Latencies] = field(default_factory=list)
    left: list[str] = field(default_factory=list)


def percentile(values: Sequence[float], share: float) -> float | None:
    """Return the least value that so large a share of them does not exceed; None where there are none."""
    if not values:
        return None
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def figures(arm: ArmResult) -> dict[str, float | None]:
    """Return the figures of one arm; None where nothing was measured."""
    moments = [moment for moment in arm.moments if moment.at_s <= arm.wall_s]
    needed = sum(moment.needed for moment in moments)
    queued = [record for record in arm.programs if record.queued and record.admitted]
    commands = [seconds for record in arm.programs for seconds in record.exec_s]
    waits = [record.waited_s for record in queued]
    return {
        "disk_ratio": sum(moment.total for moment in moments) / needed if needed else None,
        "disk_peak_mib": max((moment.total for moment in arm.moments), default=0) / _MIB,
        "needed_peak_mib": max((moment.needed for moment in arm.moments), default=0) / _MIB,
        "environments_peak": max((moment.environments for moment in arm.moments), default=0),
        "used_disk_peak_mib": max((moment.used_disk for moment in arm.moments), default=0) / _MIB,
        "queued": len(queued),
        "hidden_share": sum(record.hidden for record in queued) / len(queued) if queued else None,
        "waited_p50_s": percentile(waits, 0.5),
        "waited_p99_s": percentile(waits, 0.99),
        "reclaimed": len(arm.reclaim_s),
        "reclaim_p50_s": percentile(arm.reclaim_s, 0.5),
        "reclaim_p99_s": percentile(arm.reclaim_s, 0.99),
        "creations_per_s": busiest(arm.made),
        "exec_p50_ms": _milli(percentile(commands, 0.5)),
        "exec_p99_ms": _milli(percentile(commands, 0.99)),
        "programs_per_min": len(arm.programs) / arm.wall_s * 60 if arm.wall_s else None,
        "left": len(arm.left),
    }


def busiest(moments: Sequence[float], window_s: float = _WINDOW_S) -> float:
    """Return how many of these moments a second fell into the busiest window."""
    ordered, first, most = sorted(moments), 0, 0
    for last, moment in enumerate(ordered):
        while moment - ordered[first] > window_s:
            first += 1
        most = max(most, last - first + 1)
    return most / window_s


def exec_figures(found: Latencies) -> dict[str, float | None]:
    """Return the figures of commands that do nothing."""
    return {
        "p50_ms": _milli(percentile(found.seconds, 0.5)),
        "p90_ms": _milli(percentile(found.seconds, 0.9)),
        "p99_ms": _milli(percentile(found.seconds, 0.99)),
        "per_s": found.per_s,
    }


def is_goal(found: Latencies) -> bool:
    """Tell whether the goals are about these: several environments at work, with the pauses of agents."""
    return found.parallel > 1 and found.pause_s > 0


def broken(results: Results) -> list[str]:
    """Return what went wrong, goals aside."""
    wrong = []
    for arm in results.arms:
        errors = [record.error for record in arm.programs if record.error is not None]
        wrong += [f"{arm.arm}: {len(errors)} programs failed, such as by {errors[0]}"] if errors else []
        wrong += [f"{arm.arm}: left behind (and removed now): {name}" for name in arm.left]
    return wrong + [f"commands: left behind (and removed now): {name}" for name in results.left]


def unmet(results: Results) -> list[str]:
    """Return the goals that were missed, each as a line."""
    missed = []
    for arm in results.arms:
        if arm.arm == OURS:
            seen = figures(arm)
            missed += _above("disk over the programs' own use", seen["disk_ratio"], MOST_DISK_RATIO)
            missed += _above("p99 of seconds until reclaimed", seen["reclaim_p99_s"], MOST_RECLAIM_P99_S)
            hidden = seen["hidden_share"]
            if hidden is None or hidden < LEAST_HIDDEN:
                missed.append(f"share of starts hidden is {_text(hidden)}, below {LEAST_HIDDEN:g}")
    for found in filter(is_goal, results.latencies):
        seen = exec_figures(found)
        missed += _above(f"p50 of a command by {found.way}, ms", seen["p50_ms"], MOST_EXEC_P50_MS)
        missed += _above(f"p99 of a command by {found.way}, ms", seen["p99_ms"], MOST_EXEC_P99_MS)
    return missed


def _above(what: str, value: float | None, most: float) -> list[str]:
    return [] if value is not None and value <= most else [f"{what} is {_text(value)}, above {most:g}"]


def _text(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.3g}"


def _milli(seconds: float | None) -> float | None:
    return None if seconds is None else seconds * 1000
