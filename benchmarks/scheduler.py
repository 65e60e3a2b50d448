"""What one event costs the scheduling core, and what one program weighs.

    python -m benchmarks.scheduler            # a table, after some four minutes
    python -m benchmarks.scheduler --json --seeds 1 --programs 1000 --no-memory

Each timed step is what the server pays for a fact: ``handle(event, now)`` and then ``next_deadline()``. Programs
take turns in a closed loop (arrival, streamed growth, end, tool time) and ticks fire when they are due. In the
contended cases the pools hold a third of what the programs would like to keep there, so that many of them wait and
many an event pauses, restores or queues somebody. Times are CPU time of the thread, so other processes do not count.
"""

from __future__ import annotations

import argparse
import gc
import json
import random
import statistics
import tracemalloc
from collections import defaultdict
from dataclasses import asdict, dataclass
from itertools import chain
from time import thread_time_ns

from rich import box
from rich.console import Console
from rich.table import Table

from thunderagent_core.scheduling import decisions as de
from thunderagent_core.scheduling import events as ev
from thunderagent_core.scheduling.policies import make_policy
from thunderagent_core.scheduling.scheduler import Scheduler
from thunderagent_core.scheduling.settings import SchedulerSettings

MEAN_CONTEXT_TOKENS = 8_000
MEAN_TURN_S = 30.0
CONTENDED_SHARE = 0.33
TARGET_MEDIAN_US = {1_000: 50.0, 100_000: 200.0}
TARGET_MEMORY_MB = 400.0
LABELS = {"RequestArrived": "arrived", "TokensGenerated": "grew", "RequestEnded": "ended", "Tick": "tick"}


@dataclass(frozen=True)
class Case:
    """How many programs over how many backends, and whether their contexts fit."""

    programs: int
    backends: int
    contended: bool

    @property
    def capacity_tokens(self) -> int:
        """Pool of one backend, in tokens."""
        share = CONTENDED_SHARE if self.contended else 8.0
        return int(self.programs * MEAN_CONTEXT_TOKENS * share / self.backends)


CASES = tuple(Case(n, k, contended) for n, k in ((1_000, 1), (100_000, 64)) for contended in (False, True))


@dataclass(frozen=True)
class Result:
    """Times in microseconds over all seeds; ``by_kind`` holds (median, p99) by event type."""

    case: Case
    events: int
    waiting: int
    median_us: float
    p99_us: float
    median_by_seed_us: list[float]
    by_kind_us: dict[str, tuple[float, float]]


class Loop:
    """A closed loop of programs around one scheduler; ``times`` collects nanoseconds by event type."""

    def __init__(self, case: Case, seed: int) -> None:
        self.case = case
        self.rng = random.Random(seed)
        self.times: dict[str, list[int]] = defaultdict(list)
        self.scheduler = new_scheduler()
        self.now = 0.0
        self.contexts = {f"program-{i}": self._new_context() for i in range(case.programs)}
        self.acting = list(self.contexts)
        self.running: list[tuple[str, str]] = []
        self.requests = 0
        self._step_s = MEAN_TURN_S / (3 * case.programs)
        self._start()

    def _new_context(self) -> int:
        return max(500, int(self.rng.expovariate(1 / MEAN_CONTEXT_TOKENS)))

    def _start(self) -> None:
        """Register everybody and run until the loop has settled."""
        for i in range(self.case.backends):
            self.scheduler.handle(ev.BackendAdded(f"backend-{i}"), self.now)
            self.scheduler.handle(ev.BackendSampled(f"backend-{i}", self.case.capacity_tokens), self.now)
        for program in self.contexts:
            self.scheduler.handle(ev.ProgramRegistered(program), self.now)
        for _ in range(2 * self.case.programs):
            self.step()
        self.times.clear()

    def step(self) -> None:
        """Let a little time pass and one thing happen: anybody who does not wait may be next."""
        self.now += self.rng.expovariate(1 / self._step_s)
        due = self.scheduler.next_deadline()
        if due is not None and due <= self.now:
            self._timed(ev.Tick())
            return
        index = self.rng.randrange(len(self.acting) + len(self.running))
        if index < len(self.acting):
            self._arrive(_take(self.acting, index))
        elif self.rng.random() < 1 / 2:
            self._timed(ev.TokensGenerated(self.running[index - len(self.acting)][1], 16))
        else:
            self._end(*_take(self.running, index - len(self.acting)))

    def _arrive(self, program: str) -> None:
        self.requests += 1
        chars = 4 * self.contexts[program]
        self._timed(ev.RequestArrived(f"request-{self.requests}", program, "model", chars))

    def _end(self, program: str, request: str) -> None:
        context = self.contexts[program]
        self.contexts[program] = context + 200 if context < 4 * MEAN_CONTEXT_TOKENS else self._new_context()
        self.acting.append(program)
        self._timed(ev.RequestEnded(request, ev.Outcome.COMPLETED, context, 100, context // 2))

    def _timed(self, event: ev.Event) -> None:
        scheduler, now = self.scheduler, self.now
        start = thread_time_ns()
        decisions = scheduler.handle(event, now)
        scheduler.next_deadline()
        self.times[type(event).__name__].append(thread_time_ns() - start)
        self.running += [(d.program_id, d.request_id) for d in decisions if isinstance(d, de.Forward) and d.program_id]


def _take(items: list, index: int) -> object:
    """Remove and return one item in constant time; the last one takes its place."""
    items[index], items[-1] = items[-1], items[index]
    return items.pop()


def new_scheduler() -> Scheduler:
    """Build a scheduler with the paper's policy and the default settings."""
    settings = SchedulerSettings()
    return Scheduler(make_policy("paper", settings), settings)


def measure(case: Case, seeds: range, events: int) -> Result:
    """Time ``events`` steps for each seed, with the garbage collector's pauses left in."""
    pooled: dict[str, list[int]] = defaultdict(list)
    medians, waiting = [], []
    for seed in seeds:
        loop = Loop(case, seed)
        gc.collect()
        for _ in range(events):
            loop.step()
        loop.scheduler.check()
        waiting.append(loop.scheduler.waiting)
        medians.append(_us(statistics.median(chain.from_iterable(loop.times.values()))))
        for kind, times in loop.times.items():
            pooled[kind] += times
    everything = list(chain.from_iterable(pooled.values()))
    return Result(
        case,
        len(everything),
        round(statistics.mean(waiting)),
        *_median_p99(everything),
        medians,
        {kind: _median_p99(times) for kind, times in sorted(pooled.items())},
    )


def measure_pair(pairs: int) -> tuple[float, float]:
    """Time RequestArrived + RequestEnded of one program after the other with nothing in the way: (median, p99)."""
    loop = Loop(Case(1_000, 1, contended=False), seed=0)
    scheduler, times = loop.scheduler, []
    idle = [f"pair-{i}" for i in range(1_000)]
    for number in range(pairs):
        loop.now += 0.001
        arrived = ev.RequestArrived(f"pair-{number}", idle[number % len(idle)], "model", 8_000)
        ended = ev.RequestEnded(f"pair-{number}", ev.Outcome.COMPLETED, 2_000, 100, 1_000)
        start = thread_time_ns()
        scheduler.handle(arrived, loop.now)
        scheduler.next_deadline()
        scheduler.handle(ended, loop.now)
        scheduler.next_deadline()
        times.append(thread_time_ns() - start)
    return _median_p99(times[len(idle) :])


def measure_memory(programs: int, turns: int) -> float:
    """Return the megabytes that a scheduler with so many programs takes, each after so many turns."""
    gc.collect()
    tracemalloc.start()
    scheduler = new_scheduler()
    for i in range(64 if turns else 0):
        scheduler.handle(ev.BackendAdded(f"backend-{i}"), 0.0)
        scheduler.handle(ev.BackendSampled(f"backend-{i}", programs * 1_000), 0.0)
    for i in range(programs):
        program = f"program-{i:032d}"
        scheduler.handle(ev.ProgramRegistered(program), float(i) / programs)
        for turn in range(turns):
            now = 2.0 + turn + i / programs
            scheduler.handle(ev.RequestArrived(f"{i}/{turn}", program, "model", 4_000), now)
            scheduler.handle(ev.RequestEnded(f"{i}/{turn}", ev.Outcome.COMPLETED, 1_000, 100, 500), now)
    gc.collect()
    size = tracemalloc.get_traced_memory()[0] / 1e6
    tracemalloc.stop()
    return size


def _us(nanoseconds: float) -> float:
    return round(nanoseconds / 1_000, 2)


def _median_p99(times: list[int]) -> tuple[float, float]:
    return _us(statistics.median(times)), _us(sorted(times)[int(0.99 * len(times))])


def render(results: list[Result], pair: tuple[float, float], memory: dict[str, float]) -> None:
    """Print what was measured beside what is asked for."""
    targets = ", ".join(f"< {limit:.0f} at {programs:,} programs" for programs, limit in TARGET_MEDIAN_US.items())
    title = "handle() + next_deadline(), µs of CPU per event (by type: median)"
    table = Table(title=title, caption=f"median {targets}", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for column in ("programs", "load", "waiting", "median", "p99", *LABELS.values()):
        table.add_column(column, justify="left" if column == "load" else "right", no_wrap=True)
    for result in results:
        case, kinds = result.case, result.by_kind_us
        cells = [f"{case.programs:,} on {case.backends}", "full" if case.contended else "free", f"{result.waiting:,}"]
        cells += [f"{result.median_us:.1f}", f"{result.p99_us:.1f}"]
        table.add_row(*cells, *(f"{kinds[kind][0]:.1f}" if kind in kinds else "" for kind in LABELS))
    console = Console()
    console.print(table)
    console.print(f"arrival + end of one request, nothing in the way: median {pair[0]:.1f} µs, p99 {pair[1]:.1f} µs")
    for what, size in memory.items():
        console.print(f"{what}: {size:.0f} MB (target < {TARGET_MEMORY_MB:.0f} MB)")


def main() -> None:
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=3, help="independent runs of each case")
    parser.add_argument("--events", type=int, default=30_000, help="timed events in each run")
    parser.add_argument("--programs", type=int, help="only the cases with so many programs")
    parser.add_argument("--no-memory", action="store_true", help="leave the memory measurement out")
    parser.add_argument("--json", action="store_true", help="print JSON instead of tables")
    options = parser.parse_args()
    cases = [case for case in CASES if options.programs in {None, case.programs}]
    results = [measure(case, range(options.seeds), options.events) for case in cases]
    pair = measure_pair(20_000)
    memory = {}
    if not options.no_memory:
        memory["100,000 registered programs"] = measure_memory(100_000, turns=0)
        memory["100,000 acting programs after 2 turns"] = measure_memory(100_000, turns=2)
    if options.json:
        print(json.dumps({"cases": [asdict(r) for r in results], "pair_us": pair, "memory_mb": memory}, indent=2))
    else:
        render(results, pair, memory)


if __name__ == "__main__":
    main()
