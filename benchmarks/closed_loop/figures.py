"""From runs to figures: medians over seeds, ratios within seeds, ties, and the goals."""

from __future__ import annotations

import math
import statistics
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Final

from benchmarks.closed_loop.arms import CAP, PAPER, PASSTHROUGH
from thunderagent_core.demo.summary import summarize

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from thunderagent_core.demo.records import RunResult

TIE: Final = 0.05
"""Ratios nearer to 1 than this are a tie: runs of the same arm differ as much."""

THROUGHPUT: Final = "steps_per_min"
OVER_PASSTHROUGH: Final = 1.5
OVER_BEST_CAP: Final = 0.9


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One arm with one seed.

    Args:
        arm: its name.
        seed: of the workload.
        position: place in the order of the seed, from 0.
        figures: by name; None for what was not measured or cannot be.
        errors: why it counts as failed; empty where it does not.
        setup: what was set for it.
    """

    arm: str
    seed: int
    position: int
    figures: dict[str, float | None] = field(default_factory=dict)
    errors: tuple[str, ...] = ()
    setup: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Spread:
    """Of one figure over the seeds."""

    median: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Row:
    """One arm over all seeds.

    Args:
        arm: its name.
        spreads: by figure; those that no seed has are left out.
        ratio: to passthrough in steps/min, the median of the ratios within each seed.
        errors: of all its runs; where there are any, the arm failed.
    """

    arm: str
    spreads: dict[str, Spread]
    ratio: float | None
    errors: tuple[str, ...]


def figures_of(result: RunResult) -> dict[str, float | None]:
    """Return all figures of a run by name, flat."""
    flat: dict[str, float | None] = {}
    for name, value in asdict(summarize(result)).items():
        if isinstance(value, dict):
            flat.update({f"{name.removesuffix('_s')}_{key}_s": number for key, number in value.items()})
        else:
            flat[name] = value
    answered = [request for request in result.requests if request.error is None]
    last = max((request.turn for request in answered), default=0)
    flat["first_token_max_s"] = max((r.first_token_s for r in answered if r.first_token_s is not None), default=None)
    flat["context_first_tokens"] = _median(r.prompt_tokens for r in answered if r.turn == 0)
    flat["context_last_tokens"] = _median(r.prompt_tokens for r in answered if r.turn == last)
    flat["context_max_tokens"] = max((r.prompt_tokens + r.completion_tokens for r in answered), default=None)
    return {name: None if isinstance(value, float) and math.isnan(value) else value for name, value in flat.items()}


def rows(runs: Sequence[Run]) -> list[Row]:
    """Summarise each arm, in the order of their first runs."""
    names = list(dict.fromkeys(run.arm for run in runs))
    return [_row(name, runs) for name in names]


def _row(name: str, runs: Sequence[Run]) -> Row:
    own = [run for run in runs if run.arm == name]
    errors = tuple(f"seed {run.seed}: {error}" for run in own for error in run.errors)
    known = dict.fromkeys(key for run in own for key in run.figures)
    values = {key: [v for run in own if not run.errors and (v := run.figures.get(key)) is not None] for key in known}
    spreads = {key: Spread(statistics.median(v), min(v), max(v)) for key, v in values.items() if v}
    return Row(name, spreads, ratio(runs, name, PASSTHROUGH), errors)


def ratio(runs: Sequence[Run], arm: str, base: str) -> float | None:
    """Return how many times as many steps/min an arm makes as another; None where one of them failed or is missing.

    The median of the ratios within each seed: a slow minute of the machine is likely to hit both.
    """
    if any(run.errors for run in runs if run.arm in {arm, base}):
        return None
    own, others = _by_seed(runs, arm), _by_seed(runs, base)
    return _median(own[seed] / others[seed] for seed in own.keys() & others.keys())


def _by_seed(runs: Sequence[Run], arm: str) -> dict[int, float]:
    return {run.seed: steps for run in runs if run.arm == arm and (steps := run.figures.get(THROUGHPUT))}


def is_tie(value: float) -> bool:
    """Return whether a ratio says no more than that two arms are about as fast."""
    return abs(value - 1) < TIE


def best_cap(runs: Sequence[Run]) -> str | None:
    """Return the ``cap`` arm with the highest median of steps/min that did not fail."""
    caps = [row for row in rows(runs) if row.arm.partition(":")[0] == CAP]
    made = [row for row in caps if THROUGHPUT in row.spreads and not row.errors]
    return max(made, key=lambda row: row.spreads[THROUGHPUT].median).arm if made else None


def unmet(runs: Sequence[Run]) -> list[str]:
    """Say which goals the paper's policy misses; nothing where it meets all."""
    cap = best_cap(runs)
    goals = [(PASSTHROUGH, OVER_PASSTHROUGH)] + ([(cap, OVER_BEST_CAP)] if cap else [])
    missed = [] if cap else ["no cap arm was measured, or all of them failed"]
    for base, goal in goals:
        found = ratio(runs, PAPER, base)
        if found is None:
            missed.append(f"{PAPER} and {base} were not both measured without a failure")
        elif found < goal:
            missed.append(f"{PAPER} makes {found:.2f} times the steps/min of {base}; the goal is {goal:g}")
    return missed


def _median(values: Iterable[float]) -> float | None:
    given = list(values)
    return statistics.median(given) if given else None
