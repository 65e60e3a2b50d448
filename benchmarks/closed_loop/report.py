"""The figures as a table: on the terminal, and as Markdown between two markers of a page."""

from __future__ import annotations

import os
import shlex
from typing import TYPE_CHECKING, Any, Final

from rich.table import Table

from benchmarks.closed_loop.arms import DIRECT, PAPER, PASSTHROUGH, ROUTER
from benchmarks.closed_loop.figures import THROUGHPUT, Row, best_cap, is_tie, ratio, rows

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from benchmarks.closed_loop.figures import Run, Spread
    from benchmarks.closed_loop.record import Record

BEGIN: Final = "<!-- agents:begin -->"
END: Final = "<!-- agents:end -->"

HEADINGS: Final = (
    "arm",
    "steps/min",
    "× passthrough",
    "output tokens/s",
    "hit rate",
    "recomputed tokens",
    "latency p50 / p90 / p99, s",
    "first token p50 / p90 / p99, s",
    "program mean / p99, s",
    "worst wait, s",
    "pauses",
)

_NOT_REPEATED: Final = ("--out", "--plot", "--report", "--cache")
"""Options that change nothing about the figures."""


class NoPlaceError(ValueError):
    """The page has no place for the table; the text says what it lacks."""


def cells(row: Row) -> list[str]:
    """Return one arm's line: medians over the seeds, with the least and the greatest where they matter most."""
    if row.errors:
        return [row.arm, "failed", *[""] * (len(HEADINGS) - 2)]

    def several(*names: str) -> str:
        return " / ".join(_median(row, name, _seconds) for name in names)

    return [
        row.arm,
        _whole(row, THROUGHPUT),
        _ratio(row.ratio),
        _median(row, "output_tokens_per_s", "{:.1f}".format),
        _spread(row, "hit_rate", "{:.2f}".format),
        _median(row, "recomputed_tokens", "{:,.0f}".format),
        several("latency_p50_s", "latency_p90_s", "latency_p99_s"),
        several("first_token_p50_s", "first_token_p90_s", "first_token_p99_s"),
        several("completion_mean_s", "completion_p99_s"),
        _median(row, "worst_wait_s", _seconds),
        _median(row, "pauses", "{:.0f}".format),
    ]


def table(record: Record) -> Table:
    """Return what a terminal shows."""
    view = Table(title="Agents in a closed loop")
    for heading in HEADINGS:
        first = heading == HEADINGS[0]
        view.add_column(heading, justify="left" if first else "right", no_wrap=first)
    for row in rows(record.runs):
        view.add_row(*cells(row), style="red" if row.errors else None)
    return view


def markdown(record: Record, pictures: Sequence[str] = ()) -> str:
    """Return the table and what belongs to it as Markdown."""
    lines = [f"Measured {record.about['started'][:10]}:", "", "```sh", command(record), "```", ""]
    lines += ["| " + " | ".join(HEADINGS) + " |", "|---" * len(HEADINGS) + "|"]
    lines += ["| " + " | ".join(cells(row)) + " |" for row in rows(record.runs)]
    lines += ["", legend(record), ""]
    lines += [f"- {line}" for line in comparisons(record.runs)]
    failures = [f"- **{row.arm} failed.** {error}" for row in rows(record.runs) for error in row.errors]
    lines += ["", *failures] if failures else []
    lines += ["", *(f"![{name}]({name})" for name in pictures)] if pictures else []
    return "\n".join(lines)


def legend(record: Record) -> str:
    """Say in words what was measured, on what."""
    about = record.about
    load, engine, versions = about["workload"], about["engine"], about["versions"]
    contexts = [value for run in record.runs for value in _contexts(run)]
    grown = f"contexts from {min(contexts):,.0f} to {max(contexts):,.0f} tokens (medians), " if contexts else ""
    return (
        f"Medians (least–greatest) over seeds {', '.join(map(str, about['seeds']))}; the ratio is the median of those "
        f"within each seed, and a tie where it differs from 1 by less than 5 %. {load['programs']} programs of "
        f"{load['turns']} turns, {grown}tools of {load['tool_s']:g} s ({load['tool_law']}). Engine: "
        f"{engine['origin']}, version {versions['engine']}, {engine['capacity_tokens']:,} tokens of KV cache; "
        f"{about['machine']['cores']} cores, Python {versions['python']}. Worst wait: the longest that the server "
        f"held a request, where it tells."
    )


def comparisons(runs: Sequence[Run]) -> list[str]:
    """Say how the paper's policy compares with the arms that matter, in steps/min."""
    cap = best_cap(runs)
    bases = {PASSTHROUGH: PASSTHROUGH, "plain vLLM (direct)": DIRECT, ROUTER: ROUTER}
    if cap is not None:
        bases[f"the best cap ({cap})"] = cap
    found = [(label, ratio(runs, PAPER, base)) for label, base in bases.items()]
    return [f"{PAPER} over {label}: {_ratio(value)}" for label, value in found if value is not None]


def command(record: Record) -> str:
    """Return the command line without what only says where results go."""
    kept: list[str] = []
    words = iter(shlex.split(record.about["command"]))
    for word in words:
        if word in _NOT_REPEATED:
            next(words, None)
        elif not word.startswith(tuple(f"{option}=" for option in _NOT_REPEATED)):
            kept.append(word)
    return shlex.join(kept)


def check_place(page: Path) -> None:
    """Raise NoPlaceError where the page exists and lacks the markers."""
    if page.exists():
        splice(page.read_text(encoding="utf-8"), "")


def write(record: Record, page: Path, pictures: Sequence[Path] = ()) -> None:
    """Put the table between the page's markers; a page that does not exist is made. Raises NoPlaceError."""
    names = [os.path.relpath(picture, page.parent) for picture in pictures]
    text = page.read_text(encoding="utf-8") if page.exists() else f"# Agents\n\n{BEGIN}\n{END}\n"
    page.parent.mkdir(parents=True, exist_ok=True)
    page.write_text(splice(text, markdown(record, names)), encoding="utf-8")


def splice(page: str, content: str, begin: str = BEGIN, end: str = END) -> str:
    """Return the page with other content between its markers. Raises NoPlaceError."""
    if page.count(begin) != 1 or page.count(end) != 1 or page.index(begin) > page.index(end):
        raise NoPlaceError(f"the page needs one {begin} and, after it, one {end}")
    before, _, rest = page.partition(begin)
    return f"{before}{begin}\n{content}\n{end}{rest.partition(end)[2]}"


def _contexts(run: Run) -> list[float]:
    ends = (run.figures.get("context_first_tokens"), run.figures.get("context_last_tokens"))
    return [value for value in ends if value is not None]


def _ratio(value: float | None) -> str:
    if value is None:
        return "–"
    return f"{value:.2f}" + (" (tie)" if is_tie(value) and value != 1 else "")


def _whole(row: Row, name: str) -> str:
    return _spread(row, name, "{:.0f}".format)


def _spread(row: Row, name: str, show: Callable[[Any], str]) -> str:
    spread: Spread | None = row.spreads.get(name)
    return "–" if spread is None else f"{show(spread.median)} ({show(spread.low)}–{show(spread.high)})"


def _median(row: Row, name: str, show: Callable[[Any], str]) -> str:
    spread = row.spreads.get(name)
    return "–" if spread is None else show(spread.median)


def _seconds(value: float) -> str:
    return f"{value:.2f}" if value < 1 else f"{value:.1f}"
