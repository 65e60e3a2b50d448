"""``thunderagent replay``: run a recorded trace again and compare the decisions."""

from __future__ import annotations

import json
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from difflib import ndiff
from pathlib import Path  # noqa: TC003 - Typer evaluates annotations
from typing import TYPE_CHECKING, Annotated, Any

import typer

from thunderagent_core.cli.escaping import escaped
from thunderagent_core.cli.failure import FAILED, USAGE, failing_on

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from thunderagent_core.scheduling.decisions import Decision
    from thunderagent_core.scheduling.trace import Mismatch


@dataclass(slots=True)
class _Comparison:
    """What a replay has found so far; ``shown`` are the first mismatches, each with its recorded line."""

    steps: int = 0
    mismatches: int = 0
    shown: list[tuple[Mismatch, str]] = field(default_factory=list)


_HELP = """Run a recorded trace through the scheduler again and compare its decisions with the recorded ones.

The exit status is 0 if all are the same, 1 if one differs, 2 if the file is no trace.

Examples:

  thunderagent serve --backend http://127.0.0.1:8000 --trace run.jsonl

  thunderagent replay run.jsonl
"""


def add_to(app: typer.Typer) -> None:
    """Add the command."""
    app.command("replay", help=_HELP)(replay)


def replay(
    trace: Annotated[Path, typer.Argument(metavar="TRACE", help="File that serve --trace has written.")],
    *,
    show: Annotated[int, typer.Option(min=0, help="How many differences to print.")] = 3,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")] = False,
) -> None:
    """Run a recorded trace through the scheduler again and compare its decisions with the recorded ones."""
    from thunderagent_core.scheduling.trace import TraceError  # noqa: PLC0415 - loaded by this command alone

    with failing_on(TraceError, OSError, UnicodeDecodeError, status=USAGE):
        found = _compare(trace, show)
    typer.echo(_as_json(found) if as_json else _as_text(found, trace))
    if found.mismatches:
        raise typer.Exit(FAILED)


def _compare(trace: Path, show: int) -> _Comparison:
    from thunderagent_core.scheduling.trace import replay as run  # noqa: PLC0415 - loaded by this command alone

    found, last = _Comparison(), ""

    def lines(file: Iterable[str], advance: Callable[[int], None]) -> Iterator[str]:
        nonlocal last
        for last in file:
            advance(len(last))
            yield last

    with trace.open(encoding="utf-8") as file, _progress(trace) as advance:
        for mismatch in run(lines(file, advance)):
            found.steps += 1
            if mismatch is not None:
                found.mismatches += 1
                if len(found.shown) < show:
                    found.shown.append((mismatch, last))
    return found


@contextmanager
def _progress(trace: Path) -> Iterator[Callable[[int], None]]:
    """Show a bar on standard error while a terminal is attached there."""
    from rich.progress import Progress  # noqa: PLC0415 - loaded by this command alone

    from thunderagent_core.cli.tables import console  # noqa: PLC0415 - loaded by this command alone

    out = console(stderr=True)
    with Progress(console=out, transient=True, disable=not out.is_terminal) as bar:
        task = bar.add_task(f"replaying {trace.name}", total=trace.stat().st_size)
        yield lambda size: bar.advance(task, size)


def _as_json(found: _Comparison) -> str:
    shown = [
        {"line": mismatch.line, "recorded": _plain(mismatch.recorded), "replayed": _plain(mismatch.replayed)}
        for mismatch, _ in found.shown
    ]
    return json.dumps({"steps": found.steps, "mismatches": found.mismatches, "shown": shown})


def _as_text(found: _Comparison, trace: Path) -> str:
    if not found.mismatches:
        return f"{trace}: {found.steps} steps, the same decisions"
    lines = [line for mismatch, recorded in found.shown for line in _difference(mismatch, recorded)]
    lines.append(f"{trace}: {found.steps} steps, {found.mismatches} of them with other decisions")
    return "\n".join(map(escaped, lines))


def _difference(mismatch: Mismatch, line: str) -> Iterator[str]:
    """Write one mismatch as a diff: ``-`` was recorded, ``+`` was decided now, the rest is in both."""
    step = json.loads(line)
    event = step["event"]
    yield f"line {mismatch.line}, now {step['now']:.6f}: {event.pop('type')} {_fields(event)}"
    recorded, replayed = _texts(mismatch.recorded), _texts(mismatch.replayed)
    yield from (f"  {text}" for text in ndiff(recorded, replayed) if not text.startswith("?"))


def _texts(decisions: Sequence[Decision]) -> list[str]:
    return [f"{type(decision).__name__} {_fields(asdict(decision))}" for decision in decisions] or ["(nothing)"]


def _fields(values: dict[str, Any]) -> str:
    return " ".join(f"{name}={value}" for name, value in values.items() if value is not None)


def _plain(decisions: Sequence[Decision]) -> list[dict[str, Any]]:
    return [{"type": type(decision).__name__, **asdict(decision)} for decision in decisions]
