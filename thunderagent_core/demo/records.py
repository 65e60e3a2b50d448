"""What a run of agents measured. Times are in seconds of the workload's clock, which may be faster than ours."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class RequestRecord:
    """One request, its repetitions after a refusal included.

    Args:
        program: index of the agent.
        turn: number of the turn, from 0.
        call: 0 for the turn's own request, from 1 for its parallel sub-calls.
        started_s: when it was sent, counted from the start of the run.
        first_token_s: from then until the first token; None where none came.
        latency_s: from then until the end of the answer.
        prompt_tokens: as the engine counted.
        cached_tokens: prompt tokens that the engine had cached; None where it does not tell.
        completion_tokens: tokens generated.
        refusals: how often it was refused for the time being, and repeated.
        error: why it failed for good, if it did.
    """

    program: int
    turn: int
    call: int
    started_s: float
    first_token_s: float | None
    latency_s: float
    prompt_tokens: int = 0
    cached_tokens: int | None = None
    completion_tokens: int = 0
    refusals: int = 0
    error: str | None = None


@dataclass(frozen=True, slots=True)
class ProgramRecord:
    """One agent's run.

    Args:
        program: index of the agent.
        started_s: when it began, counted from the start of the run.
        completion_s: how long it took.
        turns: how many turns it finished.
        longest_wait_s: longest time that a request of it was held, as the server tells; None where it does not.
        waited_s: all its waits together, likewise.
        pauses: how often it was paused, likewise.
        error: why it broke off, if it did.
    """

    program: int
    started_s: float
    completion_s: float
    turns: int
    longest_wait_s: float | None = None
    waited_s: float | None = None
    pauses: int | None = None
    error: str | None = None


@dataclass(slots=True)
class RunResult:
    """All that a run measured; ``duration_s`` is from its start to the end of the last agent."""

    requests: list[RequestRecord] = field(default_factory=list)
    programs: list[ProgramRecord] = field(default_factory=list)
    duration_s: float = 0.0
