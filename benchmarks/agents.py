"""Multi-turn agents in a closed loop through one arm after another, on one engine.

    python -m benchmarks.agents --testbed --report docs/benchmarks.md --plot docs/plots
    python -m benchmarks.agents --backend http://127.0.0.1:8000 --seeds 1 --arm passthrough --arm paper
    python -m benchmarks.agents --simulated --arm paper --arm paper:low_watermark=0.8 --arm cap:8

An arm is plain vLLM (direct), our server with one of its policies and settings, or vllm-router with its program
scheduling. Each seed is run by all arms, in an order that changes from seed to seed, before the next; the engine's
prefix cache is emptied before each run. docs/benchmarks.md describes the method.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, get_args

import uvloop
from rich.console import Console

from benchmarks.closed_loop import arms, plots, record, report
from benchmarks.closed_loop.calibration import calibrate
from benchmarks.closed_loop.engine import EngineChoice, UnusableEngineError, refresh, running_engine
from benchmarks.closed_loop.figures import unmet
from benchmarks.closed_loop.progress import Display
from benchmarks.closed_loop.router import program
from benchmarks.closed_loop.running import Ground
from benchmarks.closed_loop.session import run_session, schedule
from benchmarks.testbed import EngineStartError, SetupError
from thunderagent_core.demo.children import ChildError
from thunderagent_core.demo.requests import RequestFailedError
from thunderagent_core.demo.workload import ToolLaw, Workload

if TYPE_CHECKING:
    from collections.abc import Sequence

    from benchmarks.closed_loop.engine import Engine

DEFAULTS: Final = {"system_tokens": 120, "task_tokens": 760, "observation_tokens": 165, "output_tokens": 32}
"""Contexts begin near 900 tokens and end near 2,400; answers have 16 to 48."""

_EXPECTED: Final = (
    ChildError,
    EngineStartError,
    RequestFailedError,
    SetupError,
    UnusableEngineError,
    record.NoRecordError,
)
"""What may go wrong without a fault in here."""

_HELP: Final = {
    "programs": "agents at work at the same time",
    "turns": "requests of each agent, sub-calls not counted",
    "system_tokens": "system prompt, the same for all",
    "task_tokens": "first message, one for each agent",
    "observation_tokens": "mean size of what a tool returns",
    "output_tokens": "mean size of an answer",
    "spread": "half the width of the range of sizes, as a share of the mean",
    "tool_s": "mean time of a tool in seconds",
    "tool_law": f"how tool times are distributed: {', '.join(get_args(ToolLaw))}",
    "start_spread_s": "seconds over which the agents start",
    "parallel_calls": "requests that are open at once in a turn with sub-calls",
    "parallel_every": "every how many turns sub-calls are made; 0: never",
}


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Read the command line; leaves the process where it makes no sense."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.agents", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    _add_engine(parser)
    _add_arms(parser)
    _add_workload(parser)
    _add_results(parser)
    options = parser.parse_args(arguments)
    try:
        options.arms = arms.chosen_arms(options.arm, options.cap)
        options.workload = Workload(**{name: getattr(options, name) for name in _HELP})
        if options.report is not None:
            report.check_place(options.report)
    except ValueError as error:
        parser.error(str(error))
    return options


def _add_engine(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("engine")
    one = group.add_mutually_exclusive_group(required=True)
    one.add_argument("--backend", metavar="URL", help="a running engine; a vLLM with VLLM_SERVER_DEV_MODE=1")
    one.add_argument("--testbed", action="store_true", help="start the real vLLM of benchmarks.testbed")
    one.add_argument("--simulated", action="store_true", help="start a simulated one: quick, and no evidence")
    one.add_argument("--show", type=Path, metavar="FILE", help="run nothing: show, draw and report what FILE holds")
    add = group.add_argument
    add("--pool-tokens", type=int, default=16_384, help="KV cache of an engine that is started (default: %(default)s)")
    add("--speed", type=float, default=8.0, help="how much faster the simulated engine and all times with it run "
        "(default: %(default)s)")  # fmt: skip
    add("--engine-cpus", metavar="CPUS", help="cores for the testbed's engine, as in 0-1 (default: vLLM's choice)")
    add("--request-timeout-s", type=float, default=900.0, help="longest time for one request (default: %(default)s)")


def _add_arms(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("arms").add_argument
    add("--arm", action="append", default=[], metavar="ARM", help=f"{', '.join(arms.KINDS)}; settings follow a colon, "
        "as in paper:low_watermark=0.8,tick_s=2 or vllm-router:stats_window_size=24; repeatable. Without it: all, and "
        f"cap at {', '.join(map(str, arms.DEFAULT_CAPS))}")  # fmt: skip
    add("--cap", action="append", default=[], type=int, metavar="K", help="an arm cap:K; repeatable")
    add("--seeds", type=_seeds, default=(1, 2, 3), metavar="N,…", help="(default: 1,2,3)")
    add("--cache", type=Path, default=Path("~/.cache/thunderagent/bench-routers"),
        help="where vllm-router is installed (default: %(default)s)")  # fmt: skip


def _add_workload(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("workload")
    for field in fields(Workload):
        if field.name in _HELP:
            default: Any = DEFAULTS.get(field.name, field.default)
            choices = get_args(ToolLaw) if field.name == "tool_law" else None
            text = f"{_HELP[field.name]} (default: {default})"
            flag = f"--{field.name.replace('_', '-')}"
            group.add_argument(flag, type=type(default), default=default, choices=choices, help=text)


def _add_results(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("results").add_argument
    add("--out", type=Path, default=Path("results/agents.json"), help="JSON file (default: %(default)s)")
    add("--plot", type=Path, metavar="DIR", help="folder for plots (needs matplotlib)")
    add("--report", type=Path, metavar="FILE", help=f"Markdown page that gets the table, between {report.BEGIN} and "
        f"{report.END}")  # fmt: skip
    add("--check", action="store_true", help="fail where the paper's policy misses its goals")


def _seeds(text: str) -> tuple[int, ...]:
    seeds = tuple(int(part) for part in text.split(","))
    if len(set(seeds)) < len(seeds):
        raise argparse.ArgumentTypeError("a seed was given twice")
    return seeds


async def measure(options: argparse.Namespace, arguments: Sequence[str], console: Console) -> record.Record:
    """Run the session, storing its results after each run."""
    choice = EngineChoice(
        backend=options.backend,
        simulated=options.simulated,
        pool_tokens=options.pool_tokens,
        speed=options.speed,
        cpus=options.engine_cpus,
    )
    console.print("starting the engine" if options.backend is None else f"engine: {options.backend}", style="dim")
    async with running_engine(choice) as engine:
        ground = await _ground(options, engine, console)
        load = _sized(options.workload, engine)
        kept = record.Record(record.about(arguments, load, options.seeds, ground))
        slots = schedule(options.arms, options.seeds)
        with Display(console, runs=len(slots), steps=load.steps) as display:
            async for run in run_session(slots, load, ground, display):
                kept.runs.append(run)
                record.save(kept, options.out)
    return kept


async def _ground(options: argparse.Namespace, engine: Engine, console: Console) -> Ground:
    """Prepare what arms need; only vllm-router needs anything."""
    if not any(arm.kind == arms.ROUTER for arm in options.arms):
        return Ground(engine=engine, request_timeout_s=options.request_timeout_s)
    console.print("calibrating for vllm-router", style="dim")
    binary = await asyncio.to_thread(program, options.cache)
    await refresh(engine)
    calibration = await calibrate(engine)
    return Ground(engine=engine, calibration=calibration, binary=binary, request_timeout_s=options.request_timeout_s)


def _sized(workload: Workload, engine: Engine) -> Workload:
    """Return the workload with texts of the size that the engine's tokenizer makes of them."""
    named = {name: getattr(workload, name) for name in _HELP}
    return Workload(**named, chars_per_token=round(engine.chars_per_token, 3))


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, show and store; return the exit status."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    options = parse(given)
    out, notes = Console(width=None if sys.stdout.isatty() else 220), Console(stderr=True)
    try:
        kept = record.load(options.show) if options.show is not None else uvloop.run(measure(options, given, notes))
    except _EXPECTED as error:
        notes.print(f"benchmarks.agents: {error}", style="red", markup=False)
        return 2
    except KeyboardInterrupt:
        return 130
    return _conclude(kept, options, out)


def _conclude(kept: record.Record, options: argparse.Namespace, out: Console) -> int:
    """Show, draw and report; return the exit status."""
    out.print(report.table(kept))
    for line in [report.legend(kept), *report.comparisons(kept.runs)]:
        out.print(line, markup=False, highlight=False)
    pictures = plots.draw(kept.runs, options.plot) if options.plot is not None else []
    if options.report is not None:
        report.write(kept, options.report, pictures)
    wrong = [f"{run.arm}, seed {run.seed}: {error}" for run in kept.runs for error in run.errors]
    wrong += unmet(kept.runs) if options.check else []
    for line in wrong:
        out.print(line, style="red", markup=False)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
