"""A session: every arm once for each seed, all arms of a seed before the next one."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final, Protocol

from benchmarks.closed_loop.engine import refresh
from benchmarks.closed_loop.figures import Run, figures_of
from benchmarks.closed_loop.router import RouterError
from benchmarks.closed_loop.running import staged
from thunderagent_core.demo.agents import run_agents
from thunderagent_core.demo.children import ChildError
from thunderagent_core.demo.requests import RequestFailedError
from thunderagent_core.demo.workload import plan

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from benchmarks.closed_loop.arms import ArmSpec
    from benchmarks.closed_loop.running import Ground
    from thunderagent_core.demo.records import RequestRecord, RunResult
    from thunderagent_core.demo.workload import Workload


_SHOWN_CHARS: Final = 300


@dataclass(frozen=True, slots=True)
class Slot:
    """One run to be made: of which arm, with which seed, as which of the seed and of all."""

    arm: ArmSpec
    seed: int
    position: int
    number: int


class Watcher(Protocol):
    """Is told how a session goes on."""

    def run_started(self, slot: Slot) -> None:
        """A run begins."""
        ...

    def request_ended(self, record: RequestRecord) -> None:
        """A request of the present run has ended."""
        ...

    def run_ended(self, run: Run) -> None:
        """A run is over."""
        ...


def schedule(arms: Sequence[ArmSpec], seeds: Sequence[int]) -> list[Slot]:
    """Return all runs in order. Each seed begins with another arm, so that no place favours always the same."""
    slots: list[Slot] = []
    for index, seed in enumerate(seeds):
        shift = index * len(arms) // len(seeds)
        for position, arm in enumerate([*arms[shift:], *arms[:shift]]):
            slots.append(Slot(arm, seed, position, len(slots)))
    return slots


async def run_session(
    slots: Sequence[Slot], workload: Workload, ground: Ground, watcher: Watcher
) -> AsyncIterator[Run]:
    """Make the runs one after another and yield each. Raises UnusableEngineError where the engine is lost."""
    for slot in slots:
        await refresh(ground.engine)
        watcher.run_started(slot)
        run = await _run(slot, replace(workload, seed=slot.seed), ground, watcher)
        watcher.run_ended(run)
        yield run


async def _run(slot: Slot, workload: Workload, ground: Ground, watcher: Watcher) -> Run:
    """Make one run. An arm that does not start, or fails its agents, gives a failed run."""
    run = Run(arm=slot.arm.name, seed=slot.seed, position=slot.position)
    try:
        async with staged(slot.arm, ground, slot.number) as stage:
            run = replace(run, setup=stage.setup)
            result = await run_agents(stage.target, workload, watcher.request_ended)
            run = replace(run, figures=figures_of(result), errors=tuple(problems(result, workload)))
            if not run.errors:
                await stage.check(len(result.requests))
    except (ChildError, RouterError, RequestFailedError) as error:
        return replace(run, errors=(in_a_line(str(error)),))
    return run


def in_a_line(text: str) -> str:
    """Return the end of what a process said last, for a table."""
    return " ".join(text.split())[-_SHOWN_CHARS:]


def problems(result: RunResult, workload: Workload) -> list[str]:
    """Say what went wrong, each thing once: with anything wrong a run must not count as fast."""
    found = dict.fromkeys(program.error for program in result.programs if program.error is not None)
    errors = [str(error) for error in found]
    steps = sum(program.turns for program in result.programs)
    if steps < workload.steps and not errors:
        errors.append(f"{steps} of {workload.steps} turns were finished")
    wanted = sum(turn.output_tokens * turn.calls for program in plan(workload) for turn in program.turns)
    generated = sum(request.completion_tokens for request in result.requests)
    if generated != wanted and not errors:
        errors.append(f"the answers have {generated} tokens instead of {wanted}")
    return errors
