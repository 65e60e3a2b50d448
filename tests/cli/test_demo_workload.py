"""What agents do is decided beforehand; what they measured is summed up without surprises."""

from __future__ import annotations

import math
from dataclasses import replace
from statistics import mean

import pytest

from thunderagent_core.demo.records import ProgramRecord, RequestRecord, RunResult
from thunderagent_core.demo.summary import Percentiles, percentile, summarize
from thunderagent_core.demo.workload import Workload, plan, system_prompt

LOAD = Workload(programs=40, turns=10, seed=7)


def test_the_same_workload_gives_the_same_plan():
    assert plan(LOAD) == plan(replace(LOAD))
    assert system_prompt(LOAD) == system_prompt(replace(LOAD))
    assert plan(LOAD) != plan(replace(LOAD, seed=8))


def test_one_agent_does_not_depend_on_how_many_there_are():
    few, many = plan(replace(LOAD, programs=3)), plan(LOAD)
    assert [program.turns for program in few] == [program.turns for program in many[:3]]


def test_sizes_and_times_are_around_their_means():
    programs = plan(replace(LOAD, programs=200))
    later = [turn for program in programs for turn in program.turns[1:]]
    assert mean(len(turn.text) for turn in later) == pytest.approx(800, rel=0.05)
    assert mean(turn.output_tokens for turn in later) == pytest.approx(48, rel=0.05)
    tools = [turn.tool_s for program in programs for turn in program.turns[:-1]]
    assert mean(tools) == pytest.approx(2.0, rel=0.1)
    assert all(program.turns[-1].tool_s == 0 for program in programs)


def test_texts_are_one_line_each_and_differ_between_agents():
    texts = [program.turns[0].text for program in plan(LOAD)]
    assert len(set(texts)) == LOAD.programs
    assert not any("\n" in text for text in texts)
    assert len(system_prompt(LOAD)) == 800
    assert system_prompt(replace(LOAD, system_tokens=0)) == ""


@pytest.mark.parametrize("law", ["exponential", "lognormal", "constant"])
def test_tool_laws_have_the_mean_asked_for(law):
    programs = plan(Workload(programs=400, turns=20, tool_s=3.0, tool_law=law))
    tools = [turn.tool_s for program in programs for turn in program.turns[:-1]]
    assert mean(tools) == pytest.approx(3.0, rel=0.1)


def test_sub_calls_come_every_so_many_turns():
    (program,) = plan(Workload(programs=1, turns=6, parallel_calls=3, parallel_every=2))
    assert [turn.calls for turn in program.turns] == [1, 3, 1, 3, 1, 3]


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"programs": 0}, "programs: 0 was given, allowed is 1 or more"),
        ({"tool_s": -1.0}, "tool_s: -1.0 was given, allowed is 0 or more"),
        ({"spread": 1.5}, "spread: 1.5 was given, allowed is 0 to 1"),
        ({"chars_per_token": 0.0}, "chars_per_token: 0.0 was given, allowed is above 0"),
    ],
)
def test_impossible_workloads(change, text):
    with pytest.raises(ValueError, match=text):
        Workload(**change)


def request(program, latency_s, **fields):
    return RequestRecord(program, 0, 0, 0.0, latency_s / 2, latency_s, **fields)


def test_a_summary_adds_up():
    result = RunResult(
        requests=[
            request(0, 1.0, prompt_tokens=100, cached_tokens=80, completion_tokens=10),
            request(0, 3.0, prompt_tokens=100, cached_tokens=0, completion_tokens=20, refusals=2),
            request(1, 9.0, prompt_tokens=5, error="HTTP 500"),
        ],
        programs=[
            ProgramRecord(0, 0.0, 20.0, 2, longest_wait_s=4.0, waited_s=5.0, pauses=3),
            ProgramRecord(1, 1.0, 9.0, 0, longest_wait_s=0.5, waited_s=0.5, pauses=1, error="HTTP 500"),
        ],
        duration_s=30.0,
    )
    summary = summarize(result)
    assert (summary.steps, summary.requests, summary.failed, summary.refusals) == (2, 2, 1, 2)
    assert (summary.steps_per_min, summary.output_tokens_per_s) == (4.0, 1.0)
    assert (summary.hit_rate, summary.recomputed_tokens) == (0.4, 120)
    assert summary.latency_s == Percentiles(2.0, pytest.approx(2.8), pytest.approx(2.98))
    assert summary.first_token_s.p50 == 1.0
    assert (summary.completion_mean_s, summary.worst_wait_s, summary.pauses) == (20.0, 4.0, 4)


def test_a_summary_does_not_make_up_what_nobody_told():
    summary = summarize(RunResult(requests=[request(0, 1.0, prompt_tokens=10)], programs=[ProgramRecord(0, 0, 1.0, 1)]))
    assert (summary.hit_rate, summary.recomputed_tokens, summary.worst_wait_s, summary.pauses) == (None,) * 4
    assert math.isnan(summary.steps_per_min)
    assert math.isnan(summarize(RunResult()).latency_s.p50)


def test_percentiles_are_interpolated():
    assert percentile([3.0, 1.0, 2.0], 50) == 2.0
    assert percentile([1.0, 2.0], 90) == pytest.approx(1.9)
    assert percentile([5.0], 99) == 5.0
