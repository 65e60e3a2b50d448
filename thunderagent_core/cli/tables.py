"""What a server tells, for a terminal: tables with rich, in colour where a terminal is attached."""

from __future__ import annotations

from functools import singledispatch
from typing import TYPE_CHECKING, Any, Final

from rich.console import Console
from rich.table import Table
from rich.text import Text

from thunderagent_core.cli.escaping import escaped
from thunderagent_core.client.views import ProgramList, ProgramView

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from thunderagent_core.client.views import BackendView

_FILE_WIDTH: Final = 220
"""Columns of a table that is not for a terminal; there nothing needs to fit a screen."""

_STYLES: Final = {"active": "green", "paused": "yellow", "reasoning": "cyan", "acting": "magenta"}
_DECISION_STYLES: Final = {"Restore": "green", "Pause": "yellow", "Refuse": "red", "Reclaim": "blue", "Detach": "blue"}


def console(*, stderr: bool = False) -> Console:
    """Return where to print: as wide as the terminal, or wide enough for everything."""
    chosen = Console(stderr=stderr, highlight=False)
    return chosen if chosen.is_terminal else Console(stderr=stderr, highlight=False, width=_FILE_WIDTH)


@singledispatch
def show(content: object) -> None:
    """Print programs, one program, or backends."""
    raise TypeError(f"no table for {type(content).__name__}")


@show.register
def _(content: ProgramList) -> None:
    rows = table("program", "status", "phase", "backend", "context", "waiting", "steps", "hit rate", "tool")
    for view in content.programs:
        rows.add_row(*_program_row(view))
    out = console()
    if content.programs:
        out.print(rows)
    out.print(f"{_count(len(content.programs), 'program')}, {content.waiting} waiting")


@show.register
def _(content: ProgramView) -> None:
    out = console()
    out.print(_facts(content))
    if content.history:
        rows = table("ago", "status", "reason")
        for entry in content.history:
            rows.add_row(_seconds(entry.s_ago), _styled(entry.status), _text(entry.reason))
        out.print(rows)


@show.register(tuple)
def _(content: Sequence[BackendView]) -> None:
    rows = table(
        "backend", "URL", "engine", "state", "KV cache", "demand", "programs", "in flight", "hit rate", "models"
    )
    for view in content:
        rows.add_row(*_backend_row(view))
    out = console()
    if content:
        out.print(rows)
    out.print(_count(len(content), "backend"))


def decision_printer() -> Callable[[dict[str, Any]], None]:
    """Return a function that prints one decision on one line."""
    out = console()

    def show_decision(decision: dict[str, Any]) -> None:
        kind = escaped(str(decision.get("type", "?")))
        line = Text.assemble(
            (f"{float(decision.get('now', 0.0)):12.3f}  ", "dim"),
            (f"{kind:8}", _DECISION_STYLES.get(kind, "")),
            f"  {escaped(str(decision.get('program_id') or '-'))}",
        )
        for name in ("request_id", "backend_id", "moved", "retry_after_s", "reason"):
            if decision.get(name):
                value = escaped(str(decision[name]))
                line.append(f"  {name.removesuffix('_id')}={value}", style="dim" if name != "reason" else "")
        out.print(line, soft_wrap=True)

    return show_decision


def percent(share: float | None) -> str:
    """Write a share of one as a percentage."""
    return "-" if share is None else f"{100 * share:.1f} %"


def table(*headings: str) -> Table:
    """Return an empty table without lines."""
    made = Table(box=None, pad_edge=False, header_style="bold")
    for heading in headings:
        made.add_column(heading, overflow="fold")
    return made


def _program_row(view: ProgramView) -> tuple[Text, ...]:
    phase = _styled(view.phase)
    phase.append(f" {_seconds(view.phase_s)}")
    status = _styled(view.status)
    if view.pause_pending:
        status.append(" (to pause)")
    waiting = f"{_seconds(view.waiting_s)} ({view.held})" if view.held and view.waiting_s is not None else "-"
    tool = "(waits for a person)" if view.interrupted else view.tool or "-"
    cells = (view.backend or "-", f"{view.context_tokens:,}", waiting, str(view.steps), percent(view.hit_rate), tool)
    return (_text(view.program_id), status, phase, *map(_text, cells))


def _facts(view: ProgramView) -> Table:
    rows = Table(box=None, show_header=False, pad_edge=False)
    rows.add_column(style="bold")
    rows.add_column(overflow="fold")
    requests = f"{view.in_flight} in flight, {view.held} held"
    waits = f"{_seconds(view.waited_s)} in all, {_seconds(view.longest_wait_s)} the longest"
    tokens = (
        f"{view.prompt_tokens:,} prompt, {view.cached_tokens:,} of them cached, {view.completion_tokens:,} generated"
    )
    facts = {
        "program": view.program_id,
        "parent": view.parent_id,
        "group": view.group,
        "priority": str(view.priority),
        "status": view.status + (" (to be paused)" if view.pause_pending else ""),
        "phase": f"{view.phase} for {_seconds(view.phase_s)}",
        "backend": view.backend,
        "context": f"{view.context_tokens:,} tokens, {view.shared_tokens:,} of them shared",
        "requests": requests,
        "waits": waits,
        "steps": f"{view.steps}, paused {view.pauses} times, moved {view.moves} times",
        "tokens": f"{tokens} (hit rate {percent(view.hit_rate)})",
        "tool": view.tool,
        "waits for a person": "yes" if view.interrupted else "no",
    }
    for name, value in facts.items():
        rows.add_row(name, _text(value or "-"))
    return rows


def _backend_row(view: BackendView) -> tuple[Text, ...]:
    state = Text("healthy", "green") if view.healthy else _text(f"down: {view.reason or 'unknown'}", "red")
    if view.draining:
        state = Text("draining", "yellow")
    capacity = view.capacity_tokens
    demand = "-" if view.demand_tokens is None else f"{view.demand_tokens:,.0f}"
    if view.demand_tokens is not None and capacity:
        demand += f" ({100 * view.demand_tokens / capacity:.0f} %)"
    engine = view.engine
    hits = None if engine is None or not engine.prompt_tokens else (engine.cached_tokens or 0) / engine.prompt_tokens
    tokens = "-" if capacity is None else f"{capacity:,} tokens"
    counts = (tokens, demand, str(view.programs), str(view.in_flight), percent(hits), ", ".join(view.models) or "-")
    return (_text(view.id), _text(view.url), _text(view.kind or "-"), state, *map(_text, counts))


def _text(words: str, style: str = "") -> Text:
    return Text(escaped(words), style)


def _styled(word: str) -> Text:
    return _text(word, _STYLES.get(word, ""))


def _seconds(seconds: float | None) -> str:
    if seconds is None:
        return "-"
    if seconds < 60:  # noqa: PLR2004 - seconds in a minute
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02} min" if hours else f"{minutes} min {rest:02} s"


def _count(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"
