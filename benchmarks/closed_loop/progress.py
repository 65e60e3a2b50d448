"""What is seen while a session runs: a bar for all runs and one for the present run; without a terminal, lines."""

from __future__ import annotations

from typing import TYPE_CHECKING, Self

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

if TYPE_CHECKING:
    from types import TracebackType

    from rich.console import Console

    from benchmarks.closed_loop.figures import Run
    from benchmarks.closed_loop.session import Slot
    from thunderagent_core.demo.records import RequestRecord


class Display:
    """Shows progress on a console; ``steps`` are those of one run, ``runs`` those of the session."""

    def __init__(self, console: Console, *, runs: int, steps: int) -> None:
        self._console = console
        self._bars = Progress(
            TextColumn("{task.description:32}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[note]}"),
            TimeElapsedColumn(),
            console=console,
            disable=not console.is_terminal,
        )
        self._all = self._bars.add_task("runs", total=runs, note="")
        self._present = self._bars.add_task("", total=steps, note="", visible=False)
        self._prompt = self._cached = self._failed = 0

    def __enter__(self) -> Self:
        self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bars.stop()

    def run_started(self, slot: Slot) -> None:
        """Begin the present run's bar anew."""
        self._prompt = self._cached = self._failed = 0
        name = f"seed {slot.seed} · {slot.arm.name}"
        self._bars.reset(self._present, description=name, note="starting", visible=True)

    def request_ended(self, record: RequestRecord) -> None:
        """Move the present run's bar on, and show the hit rate so far."""
        self._prompt += record.prompt_tokens
        self._cached += record.cached_tokens or 0
        self._failed += record.error is not None
        note = f"hit rate {self._cached / max(self._prompt, 1):.2f}"
        if self._failed:
            note += f", {self._failed} failed"
        self._bars.update(self._present, advance=int(record.call == 0), note=note)

    def run_ended(self, run: Run) -> None:
        """Say what came of a run."""
        self._bars.update(self._all, advance=1)
        steps, hits = run.figures.get("steps_per_min"), run.figures.get("hit_rate")
        if run.errors:
            result = f"failed: {run.errors[0]}"
        else:
            result = f"{steps or 0:.1f} steps/min" + ("" if hits is None else f", hit rate {hits:.2f}")
        self._console.print(f"seed {run.seed}  {run.arm}: {result}", style="red" if run.errors else "dim", markup=False)
