"""A run in a few figures."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from thunderagent_core.demo.records import RequestRecord, RunResult


@dataclass(frozen=True, slots=True)
class Percentiles:
    """Median and tail of some times, in seconds; all NaN where there were none."""

    p50: float
    p90: float
    p99: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """Figures of one run. Times are in seconds, sizes in tokens; failed requests count in ``failed`` alone.

    Args:
        duration_s: from the start of the run to the end of its last agent.
        steps: turns finished.
        requests: requests answered, parallel sub-calls included.
        failed: agents that broke off.
        refusals: answers that sent a request away for the time being.
        steps_per_min: throughput.
        output_tokens_per_s: tokens generated per second, all agents together.
        prompt_tokens: prompt tokens of all requests.
        cached_tokens: those that the engine had cached; None where it does not tell.
        hit_rate: cached divided by prompt tokens.
        recomputed_tokens: prompt tokens that were not cached.
        latency_s: from sending a request to the end of its answer.
        first_token_s: from sending a request to its first token.
        completion_mean_s: mean run time of an agent.
        completion_p99_s: run time that 99 % of the agents keep.
        worst_wait_s: longest time that the server held a request; None where it does not tell.
        pauses: how often programs were paused; None where the server does not tell.
    """

    duration_s: float
    steps: int
    requests: int
    failed: int
    refusals: int
    steps_per_min: float
    output_tokens_per_s: float
    prompt_tokens: int
    cached_tokens: int | None
    hit_rate: float | None
    recomputed_tokens: int | None
    latency_s: Percentiles
    first_token_s: Percentiles
    completion_mean_s: float
    completion_p99_s: float
    worst_wait_s: float | None
    pauses: int | None


def summarize(result: RunResult) -> Summary:
    """Return the figures of a run."""
    answered = [request for request in result.requests if request.error is None]
    completions = [program.completion_s for program in result.programs if program.error is None]
    waits = [program.longest_wait_s for program in result.programs if program.longest_wait_s is not None]
    pauses = [program.pauses for program in result.programs if program.pauses is not None]
    steps = sum(program.turns for program in result.programs)
    prompt, cached = _prompt_tokens(answered)
    return Summary(
        duration_s=result.duration_s,
        steps=steps,
        requests=len(answered),
        failed=sum(program.error is not None for program in result.programs),
        refusals=sum(request.refusals for request in result.requests),
        steps_per_min=_rate(60 * steps, result.duration_s),
        output_tokens_per_s=_rate(sum(request.completion_tokens for request in answered), result.duration_s),
        prompt_tokens=prompt,
        cached_tokens=cached,
        hit_rate=cached / prompt if cached is not None and prompt else None,
        recomputed_tokens=None if cached is None else prompt - cached,
        latency_s=percentiles([request.latency_s for request in answered]),
        first_token_s=percentiles([r.first_token_s for r in answered if r.first_token_s is not None]),
        completion_mean_s=sum(completions) / len(completions) if completions else math.nan,
        completion_p99_s=percentile(completions, 99),
        worst_wait_s=max(waits, default=None),
        pauses=sum(pauses) if pauses else None,
    )


def percentiles(values: Sequence[float]) -> Percentiles:
    """Return the percentiles that summaries show."""
    return Percentiles(percentile(values, 50), percentile(values, 90), percentile(values, 99))


def percentile(values: Sequence[float], share: float) -> float:
    """Return the value below which ``share`` percent lie, interpolated; NaN for no values."""
    if not values:
        return math.nan
    ordered = sorted(values)
    position = (len(ordered) - 1) * share / 100
    below = math.floor(position)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (ordered[above] - ordered[below]) * (position - below)


def _prompt_tokens(requests: Sequence[RequestRecord]) -> tuple[int, int | None]:
    """Add up prompt tokens and those cached; the latter None where no answer told."""
    told = [request.cached_tokens for request in requests if request.cached_tokens is not None]
    return sum(request.prompt_tokens for request in requests), sum(told) if told else None


def _rate(amount: float, seconds: float) -> float:
    return amount / seconds if seconds > 0 else math.nan
