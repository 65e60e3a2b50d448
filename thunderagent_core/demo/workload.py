"""What a batch of agents does, decided beforehand from a seed: the same for every arm of a comparison."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass
from typing import Final, Literal

ToolLaw = Literal["exponential", "lognormal", "constant"]

_SIGMA: Final = 1.0
"""Spread of the log-normal law: its 99th percentile is about six times its mean."""

_PROSE: Final = (
    "the function returns a list of open files and closes every handle that is no longer needed "
    "while another test reads its input from a fixture which was written by hand last year "
    "so that a failing build shows where the parser lost its place in the second block "
    "we should check whether an empty line ends the header or belongs to the body of the message "
    "because the old module counted words and this one counts bytes after the first comma "
    "then run all checks again with more output and compare each figure to the one before"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """A batch of multi-turn agents. Sizes are in tokens, estimated from characters; times in seconds.

    Each turn is one request, to which the agent appends the answer and, after the tool's time, an observation.
    Sizes of single observations and answers are spread evenly around their mean.

    Args:
        programs: agents, all at work at the same time.
        turns: requests of each agent, parallel sub-calls not counted.
        system_tokens: system prompt, the same for all.
        task_tokens: first message, one for each agent.
        observation_tokens: mean size of what a tool returns.
        output_tokens: mean size of an answer.
        spread: half the width of the sizes' range, as a share of the mean; 0: all the same.
        tool_s: mean time that a tool takes.
        tool_law: how tool times are distributed.
        start_spread_s: agents start evenly spread over this time.
        parallel_calls: requests that are open at once in a turn with sub-calls.
        parallel_every: every how many turns sub-calls are made; 0: never.
        chars_per_token: for turning sizes into text.
        seed: of all random numbers.

    Raises:
        ValueError: a value makes no sense; the message names it.
    """

    programs: int = 24
    turns: int = 8
    system_tokens: int = 200
    task_tokens: int = 200
    observation_tokens: int = 200
    output_tokens: int = 48
    spread: float = 0.5
    tool_s: float = 2.0
    tool_law: ToolLaw = "exponential"
    start_spread_s: float = 2.0
    parallel_calls: int = 1
    parallel_every: int = 0
    chars_per_token: float = 4.0
    seed: int = 1

    def __post_init__(self) -> None:
        for name in ("programs", "turns", "output_tokens", "parallel_calls"):
            _require(getattr(self, name) >= 1, name, getattr(self, name), "1 or more")
        for name in (
            "system_tokens",
            "task_tokens",
            "observation_tokens",
            "tool_s",
            "start_spread_s",
            "parallel_every",
        ):
            _require(getattr(self, name) >= 0, name, getattr(self, name), "0 or more")
        _require(0 <= self.spread <= 1, "spread", self.spread, "0 to 1")
        _require(self.chars_per_token > 0, "chars_per_token", self.chars_per_token, "above 0")

    @property
    def steps(self) -> int:
        """Turns of all agents together."""
        return self.programs * self.turns


@dataclass(frozen=True, slots=True)
class TurnPlan:
    """One turn.

    Args:
        text: the message that begins it: the task, or a tool's observation.
        output_tokens: length of the answer.
        tool_s: how long the tool runs after it; 0 after the last turn.
        calls: requests that are open at once.
    """

    text: str
    output_tokens: int
    tool_s: float
    calls: int


@dataclass(frozen=True, slots=True)
class ProgramPlan:
    """One agent: when it starts, in seconds after the first, and what it does."""

    index: int
    start_s: float
    turns: tuple[TurnPlan, ...]


def system_prompt(workload: Workload) -> str:
    """Return the prompt that all agents share; empty for a size of 0."""
    return _text(random.Random(f"{workload.seed}/system"), workload.system_tokens, workload)  # noqa: S311 - no secret


def plan(workload: Workload) -> list[ProgramPlan]:
    """Return what each agent does; equal workloads give equal plans."""
    return [_program(workload, index) for index in range(workload.programs)]


def _program(workload: Workload, index: int) -> ProgramPlan:
    rng = random.Random(f"{workload.seed}/{index}")  # noqa: S311 - a reproducible load, no secret
    turns = tuple(_turn(workload, rng, index, number) for number in range(workload.turns))
    return ProgramPlan(index, workload.start_spread_s * index / workload.programs, turns)


def _turn(workload: Workload, rng: random.Random, index: int, number: int) -> TurnPlan:
    if number == 0:
        text = f"Task {index}: {_text(rng, workload.task_tokens, workload)}"
    else:
        text = f"Observation {number}: {_text(rng, _spread(workload.observation_tokens, workload, rng), workload)}"
    output = max(1, _spread(workload.output_tokens, workload, rng))
    tool_s = _tool_time(workload, rng)
    fans_out = workload.parallel_every > 0 and (number + 1) % workload.parallel_every == 0
    last = number == workload.turns - 1
    return TurnPlan(text, output, 0.0 if last else tool_s, workload.parallel_calls if fans_out else 1)


def _tool_time(workload: Workload, rng: random.Random) -> float:
    if workload.tool_s == 0:
        return 0.0
    match workload.tool_law:
        case "exponential":
            return rng.expovariate(1 / workload.tool_s)
        case "lognormal":
            return rng.lognormvariate(math.log(workload.tool_s) - _SIGMA**2 / 2, _SIGMA)
        case "constant":
            return workload.tool_s


def _spread(mean: int, workload: Workload, rng: random.Random) -> int:
    return round(mean * (1 + workload.spread * (2 * rng.random() - 1)))


def _text(rng: random.Random, tokens: int, workload: Workload) -> str:
    """Return words of about this many tokens, without line breaks."""
    length = round(tokens * workload.chars_per_token)
    vocabulary = _PROSE.split()
    words: list[str] = []
    written = 0
    while written < length:
        words.append(rng.choice(vocabulary))
        written += len(words[-1]) + 1
    return " ".join(words)[:length]


def _require(condition: bool, name: str, given: object, allowed: str) -> None:
    if not condition:
        raise ValueError(f"{name}: {given!r} was given, allowed is {allowed}")
