"""The figures with their goals beside them: on a terminal, as Markdown in a page, and as JSON."""

from __future__ import annotations

import json
import os
from dataclasses import asdict
from typing import TYPE_CHECKING, Final

from rich.table import Table

from benchmarks.closed_loop.report import splice
from benchmarks.sandboxes import figures as fig
from benchmarks.sandboxes.arms import KEPT, OURS

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from benchmarks.sandboxes.figures import Results

BEGIN: Final = "<!-- environments:begin -->"
END: Final = "<!-- environments:end -->"

_PAPER_RATIO: Final = 4.2

_LINES: Final = (
    ("disk of all environments ÷ that of programs still at work", "≤ 1.15", ("disk_ratio",), ".2f"),
    ("disk at most, MiB", "flat", ("disk_peak_mib",), ",.0f"),
    ("environments at most", "", ("environments_peak",), ".0f"),
    ("start hidden from programs that queued", "≥ 90 %", ("hidden_share",), ".1%"),
    ("what they waited for it, p50 / p99, s", "", ("waited_p50_s", "waited_p99_s"), ".2f"),
    ("gone after release, p50 / p99, s", "p99 < 2", ("reclaim_p50_s", "reclaim_p99_s"), ".2f"),
    ("made a second in the busiest 10 s", "", ("creations_per_s",), ".1f"),
    ("a command meanwhile, p50 / p99, ms", "", ("exec_p50_ms", "exec_p99_ms"), ".1f"),
    ("programs a minute", "", ("programs_per_min",), ".0f"),
    ("containers, sandboxes or files left", "0", ("left",), ".0f"),
)

_EXEC_HEADINGS: Final = ("`true` in an environment", "goal", "p50 / p90 / p99, ms", "a second")


def lines(results: Results) -> tuple[list[str], list[list[str]]]:
    """Return headings and cells of the table of arms."""
    seen = [fig.figures(arm) for arm in results.arms]
    cells = []
    for label, goal, names, form in _LINES:
        values = [" / ".join(_cell(one[name], form) for name in names) for one in seen]
        cells.append([label, goal, *values])
    return ["", "goal", *(arm.arm for arm in results.arms)], cells


def exec_lines(results: Results) -> list[list[str]]:
    """Return the cells of the table of commands that do nothing."""
    cells = []
    for found in results.latencies:
        seen = fig.exec_figures(found)
        pace = f"pauses of {found.pause_s * 1000:g} ms" if found.pause_s else "no pauses"
        goal = "p50 ≤ 3, p99 ≤ 30" if fig.is_goal(found) else ""
        times = " / ".join(_cell(seen[name], ".1f") for name in ("p50_ms", "p90_ms", "p99_ms"))
        cells.append([f"{found.way}, {found.parallel} in parallel, {pace}", goal, times, _cell(seen["per_s"], ".0f")])
    return cells


def tables(results: Results) -> list[Table]:
    """Return what a terminal shows."""
    headings, cells = lines(results)
    shown = [_table("Tool environments", headings, cells)] if results.arms else []
    if results.latencies:
        shown.append(_table("Commands", _EXEC_HEADINGS, exec_lines(results)))
    return shown


def comparisons(results: Results) -> list[str]:
    """Say how the disk of the arms compares, in words."""
    peaks = {arm.arm: fig.figures(arm)["disk_peak_mib"] for arm in results.arms}
    ours, kept = peaks.get(OURS), peaks.get(KEPT)
    if not ours or not kept:
        return []
    factor = f"{kept / ours:.1f} × less disk at most than without reclamation (the paper: {_PAPER_RATIO} ×)"
    return [f"{factor}; it grows with the number of programs, {results.about['programs']} here."]


def legend(results: Results) -> str:
    """Say in words what was measured, on what."""
    about = results.about
    return (
        f"{about['programs']} programs, all there from the start, {about['pool']} at a time on the engine; each writes "
        f"{about['write_mib']} MiB, makes {about['turns']} requests and has tools of {about['tool_s']:g} s. "
        f"Provider: {about['provider']}. Disk is measured by blocks allocated, four times a second; ends by the "
        f"daemon's own events (Docker) or directories (process), not by what the server says. {about['cores']} cores "
        f"for server, engine, daemon, sandboxes and clients together; load {about['load']:.1f} at the start."
    )


def markdown(results: Results, pictures: Sequence[str] = ()) -> str:
    """Return tables and what belongs to them as Markdown."""
    text = [f"Measured {results.about['started'][:10]}:", "", "```sh", results.about["command"], "```", ""]
    if results.arms:
        text += [*_markdown_table(*lines(results)), ""]
    if results.latencies:
        text += [*_markdown_table(_EXEC_HEADINGS, exec_lines(results)), ""]
    text += [legend(results), "", *(f"- {line}" for line in comparisons(results))]
    text += [f"- Missed: {line}." for line in fig.unmet(results)]
    text += ["", *(f"![{name}]({name})" for name in pictures)] if pictures else []
    return "\n".join(text)


def check_place(page: Path) -> None:
    """Raise NoPlaceError where a page exists and has no place for the table."""
    if page.exists():
        splice(page.read_text(encoding="utf-8"), "", BEGIN, END)


def write(results: Results, page: Path, pictures: Sequence[Path] = ()) -> None:
    """Put the tables between the page's markers; a page that does not exist is made. Raises NoPlaceError."""
    names = [os.path.relpath(picture, page.parent) for picture in pictures]
    text = page.read_text(encoding="utf-8") if page.exists() else f"# Tool environments\n\n{BEGIN}\n{END}\n"
    page.parent.mkdir(parents=True, exist_ok=True)
    page.write_text(splice(text, markdown(results, names), BEGIN, END), encoding="utf-8")


def save(results: Results, path: Path) -> None:
    """Store everything, figures and raw values, as JSON."""
    content = asdict(results)
    content["figures"] = {arm.arm: fig.figures(arm) for arm in results.arms}
    content["exec_figures"] = [fig.exec_figures(found) for found in results.latencies]
    content["missed"] = fig.unmet(results)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content), encoding="utf-8")


def _table(title: str, headings: Sequence[str], cells: Sequence[Sequence[str]]) -> Table:
    view = Table(title=title)
    for index, heading in enumerate(headings):
        view.add_column(heading, justify="left" if index < 2 else "right")
    for line in cells:
        view.add_row(*line)
    return view


def _markdown_table(headings: Sequence[str], cells: Sequence[Sequence[str]]) -> list[str]:
    return [
        "| " + " | ".join(headings) + " |",
        "|---" * len(headings) + "|",
        *("| " + " | ".join(line) + " |" for line in cells),
    ]


def _cell(value: float | None, form: str) -> str:
    return "–" if value is None else format(value, form).replace("%", " %")
