"""Tool environments under load: the disk they take, the starts they hide, how fast commands and ends are.

    python -m benchmarks.environments --report docs/benchmarks.md --plot docs/plots --check
    python -m benchmarks.environments --provider process --programs 40 --arm ours
    python -m benchmarks.environments --programs 0 --commands 4000          # commands only

A real server and a simulated engine are started. All programs come at once; the engine takes a pool of them at a time,
the others queue. Each fills its environment, runs commands in it and ends. The arms run one after another:

    ours                  environments are made ahead, and taken back when their program ends
    without reclamation   programs say that they are idle instead of ending, so that nothing is taken back till the last
    without preparation   nothing is made before its program is admitted

At last commands that do nothing are timed, through SDK and server and by the executor alone: one environment, several
with an agent's pauses between commands (what the goals are about), several without pauses (which measures the cores).

With Docker a daemon is used that answers at DOCKER_HOST or the usual place, else one is started, which takes dockerd
and root. The image is made of this machine's static busybox unless --image names one. Whatever happens, Ctrl-C
included, everything that was made is removed; what the server itself left over is counted and printed.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shlex
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import uvloop
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from benchmarks.sandboxes import plots, report
from benchmarks.sandboxes.arms import ARMS, Ground, run_arm
from benchmarks.sandboxes.figures import Results, broken, unmet
from benchmarks.sandboxes.latency import measure
from benchmarks.sandboxes.load import NAME, Load
from benchmarks.testbed import SetupError
from benchmarks.testbed.docker_engine import Engine, docker_engine, import_image
from thunderagent_core.demo.children import ChildError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

_NOT_REPEATED: Final = {"--out", "--plot", "--report"}


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Read the command line; leaves the process where it makes no sense."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.environments",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    _add_load(parser)
    add = parser.add_argument_group("results").add_argument
    add("--out", type=Path, default=Path("results/environments.json"), help="JSON file (default: %(default)s)")
    add("--plot", type=Path, metavar="DIR", help="folder for plots (needs matplotlib)")
    add("--report", type=Path, metavar="FILE", help=f"Markdown page that gets the tables, between {report.BEGIN} and "
        f"{report.END}")  # fmt: skip
    add("--check", action="store_true", help="fail where a goal is missed")
    options = parser.parse_args(arguments)
    if options.provider == "process" and options.image is not None and not options.image.startswith("/"):
        parser.error("--image must be the absolute path of a root file system with --provider process")
    try:
        if options.report is not None:
            report.check_place(options.report)
    except ValueError as error:
        parser.error(str(error))
    return options


def _add_load(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("what is run").add_argument
    add(
        "--provider",
        choices=("docker", "process"),
        default="docker",
        help="who makes environments (default: %(default)s)",
    )
    add("--image", help="image of the environments; Docker: a reference, process: a directory "
        "(default: a busybox made here; the host's /usr)")  # fmt: skip
    add("--arm", action="append", choices=ARMS, help="repeatable (default: all)")
    add("--programs", type=int, default=200, help="programs in each arm; 0: no arms (default: %(default)s)")
    add("--pool", type=int, default=16, help="programs on the engine at a time (default: %(default)s)")
    add("--write-mib", type=int, default=20, help="what each writes, in MiB (default: %(default)s)")
    add("--turns", type=int, default=4, help="requests of each program (default: %(default)s)")
    add("--tool-s", type=float, default=2.5, help="mean seconds of a tool, from half to one and a half times as long "
        "(default: %(default)s)")  # fmt: skip
    add("--seed", type=int, default=1, help="for the times of tools (default: %(default)s)")
    add(
        "--commands",
        type=int,
        default=1600,
        help="commands that do nothing, for each way; 0: none (default: %(default)s)",
    )
    add(
        "--parallel", type=int, default=8, help="environments in which they run at the same time (default: %(default)s)"
    )
    add("--pause-ms", type=float, default=100.0, help="mean pause between the commands of one environment, "
        "exponential (default: %(default)s)")  # fmt: skip


@contextlib.contextmanager
def ground(options: argparse.Namespace) -> Iterator[tuple[Ground, dict[str, Any]]]:
    """Yield where environments live and the specification of one. Raises SetupError."""
    spec: dict[str, Any] = {"name": NAME, "memory_bytes": 256 << 20, "disk_bytes": (options.write_mib + 8) << 20}
    if options.image is not None:
        spec["image"] = options.image
    if options.provider == "process":
        yield Ground("process", None), spec
        return
    with tempfile.TemporaryDirectory() as folder, docker_engine(Path(folder)) as url:
        engine = Engine(url)
        yield Ground("docker", engine), {"image": options.image or import_image(engine), **spec}


async def run(
    options: argparse.Namespace, place: Ground, spec: dict[str, Any], results: Results, notes: Console
) -> None:
    """Run all arms and the commands, storing results after each."""
    load = Load(
        programs=options.programs,
        pool=options.pool,
        write_mib=options.write_mib,
        turns=options.turns,
        tool_s=options.tool_s,
        spec=spec,
        seed=options.seed,
    )
    columns = (TextColumn("{task.description:24}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=notes, disable=not notes.is_terminal) as bars:
        for arm in dict.fromkeys(options.arm or ARMS) if options.programs else ():
            bar = bars.add_task(arm, total=options.programs)
            results.arms.append(await run_arm(arm, place, load, lambda bar=bar: bars.advance(bar)))  # type: ignore[misc]
            notes.print(f"{arm}: {results.arms[-1].wall_s:.0f} s, {len(results.arms[-1].left)} left", style="dim")
            report.save(results, options.out)
        if options.commands:
            bars.add_task("commands", total=None)
            found = await measure(place, spec, options.parallel, options.commands, options.pause_ms / 1000)
            results.latencies, results.left = found
    report.save(results, options.out)


def about(options: argparse.Namespace, arguments: Sequence[str]) -> dict[str, Any]:
    """Return what is needed to repeat a run, and on what it ran."""
    words = ("programs", "pool", "write_mib", "turns", "tool_s", "provider", "seed", "parallel")
    return {
        **{word: getattr(options, word) for word in words},
        "command": shlex.join(["python", "-m", "benchmarks.environments", *_repeated(arguments)]),
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "cores": os.cpu_count(),
        "load": os.getloadavg()[0],
        "python": sys.version.split()[0],
    }


def _repeated(arguments: Sequence[str]) -> list[str]:
    """Return the arguments without those that only say where results go."""
    kept, words = [], iter(arguments)
    for word in words:
        if word in _NOT_REPEATED:
            next(words, None)
        elif word.partition("=")[0] not in _NOT_REPEATED:
            kept.append(word)
    return kept


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, show and store; return the exit status."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    options = parse(given)
    out, notes = Console(width=None if sys.stdout.isatty() else 160), Console(stderr=True)
    results = Results(about(options, given))
    try:
        with ground(options) as (place, spec):
            uvloop.run(run(options, place, spec, results, notes))
    except (ChildError, SetupError) as error:
        notes.print(f"benchmarks.environments: {error}", style="red", markup=False)
        return 2
    except KeyboardInterrupt:
        notes.print("stopped; what was made has been removed", style="dim")
        return 130
    return _conclude(results, options, out)


def _conclude(results: Results, options: argparse.Namespace, out: Console) -> int:
    """Show, draw and report; return the exit status."""
    for table in report.tables(results):
        out.print(table)
    for line in [report.legend(results), *report.comparisons(results)]:
        out.print(line, markup=False, highlight=False)
    left = sum(len(arm.left) for arm in results.arms) + len(results.left)
    out.print(f"left behind: {left}", markup=False, highlight=False)
    pictures = plots.draw(results, options.plot) if options.plot is not None else []
    if options.report is not None:
        report.write(results, options.report, pictures)
    wrong, missed = broken(results), unmet(results)
    for line in wrong + missed:
        out.print(line, style="red", markup=False)
    return 1 if wrong or (options.check and missed) else 0


if __name__ == "__main__":
    sys.exit(main())
