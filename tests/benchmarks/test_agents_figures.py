"""Medians, ratios, ties and goals, and the table that is made of them."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import pytest

from benchmarks import agents
from benchmarks.closed_loop import plots, record, report
from benchmarks.closed_loop.figures import Run, Spread, best_cap, figures_of, is_tie, ratio, rows, unmet
from benchmarks.closed_loop.session import problems
from thunderagent_core.demo.records import ProgramRecord, RequestRecord, RunResult
from thunderagent_core.demo.workload import Workload, plan

ABOUT = {
    "command": "python -m benchmarks.agents --testbed --out /somewhere/a.json --plot=/somewhere --cap 8",
    "started": "2026-01-02T03:04:05+00:00",
    "versions": {"engine": "0.32.0", "python": "3.11.7"},
    "machine": {"cores": 2},
    "engine": {"origin": "a test", "capacity_tokens": 16_384},
    "workload": {"programs": 24, "turns": 8, "tool_s": 2.0, "tool_law": "exponential"},
    "seeds": [1, 2, 3],
}


def runs(arm, *steps, errors=()):
    figures = {"hit_rate": 0.5, "worst_wait_s": None, "latency_p50_s": 2.0, "latency_p90_s": 3.0, "latency_p99_s": 4.0}
    return [
        Run(arm=arm, seed=seed, position=0, figures={"steps_per_min": each, **figures}, errors=errors)
        for seed, each in enumerate(steps, start=1)
    ]


def session(**speeds):
    """Return the runs of several arms over three seeds, of which the second met a machine half as fast."""
    found = []
    for arm, speed in speeds.items():
        found += runs(arm.replace("_", ":"), speed, speed / 2, speed)
    return found


def result(workload, **changes):
    """Return what a flawless run of the workload leaves."""
    programs = [ProgramRecord(p.index, 0.0, 10.0, len(p.turns)) for p in plan(workload)]
    requests = [
        RequestRecord(p.index, number, 0, 0.0, 0.5, 1.0, 100, 60, turn.output_tokens)
        for p in plan(workload)
        for number, turn in enumerate(p.turns)
    ]
    return replace(RunResult(requests, programs, 60.0), **changes)


def test_medians_are_over_seeds_and_ratios_within_them():
    made = session(passthrough=60.0, paper=96.0)
    assert [row.arm for row in rows(made)] == ["passthrough", "paper"]
    paper = rows(made)[1]
    assert paper.spreads["steps_per_min"] == Spread(96.0, 48.0, 96.0)
    assert paper.ratio == pytest.approx(1.6)
    assert "worst_wait_s" not in paper.spreads


def test_a_ratio_needs_both_arms_of_a_seed():
    made = runs("passthrough", 60.0) + runs("paper", 90.0, 500.0)
    assert ratio(made, "paper", "passthrough") == pytest.approx(1.5)
    assert ratio(made, "paper", "cap:8") is None


def test_a_failed_arm_is_never_fast():
    made = session(passthrough=60.0, cap_8=90.0) + runs("paper", 900.0, 900.0, errors=("HTTP 500",))
    (paper,) = [row for row in rows(made) if row.arm == "paper"]
    assert (paper.ratio, paper.spreads) == (None, {})
    assert paper.errors == ("seed 1: HTTP 500", "seed 2: HTTP 500")
    assert report.cells(paper)[:2] == ["paper", "failed"]
    assert len(unmet(made)) == 2
    one_bad_seed = [*session(cap_8=90.0), *runs("cap:9", 900.0), *runs("cap:9", 900.0, errors=("late",))]
    assert best_cap(one_bad_seed) == "cap:8"


@pytest.mark.parametrize(("value", "tie"), [(1.0, True), (1.04, True), (0.96, True), (1.06, False), (0.94, False)])
def test_a_small_difference_is_a_tie(value, tie):
    assert is_tie(value) is tie


@pytest.mark.parametrize(
    ("speeds", "complaints"),
    [
        ({"passthrough": 60.0, "paper": 96.0, "cap_8": 80.0, "cap_9": 100.0}, []),
        ({"passthrough": 60.0, "paper": 80.0, "cap_8": 85.0}, ["1.33 times the steps/min of passthrough"]),
        ({"passthrough": 60.0, "paper": 96.0, "cap_8": 80.0, "cap_9": 120.0}, ["0.80 times the steps/min of cap:9"]),
        ({"passthrough": 60.0, "paper": 96.0}, ["no cap arm"]),
        ({"passthrough": 60.0, "cap_8": 60.0}, ["paper and passthrough", "paper and cap:8"]),
        ({}, ["no cap arm", "paper and passthrough"]),
    ],
)
def test_goals(speeds, complaints):
    missed = unmet(session(**speeds))
    assert len(missed) == len(complaints)
    for line, complaint in zip(missed, complaints, strict=True):
        assert complaint in line


def test_the_figures_of_a_run():
    load = Workload(programs=2, turns=3)
    figures = figures_of(result(load))
    assert figures["steps_per_min"] == 6.0
    assert figures["hit_rate"] == 0.6
    assert figures["recomputed_tokens"] == 240
    assert (figures["latency_p99_s"], figures["first_token_max_s"], figures["completion_mean_s"]) == (1.0, 0.5, 10.0)
    assert (figures["context_first_tokens"], figures["context_last_tokens"]) == (100, 100)
    assert figures_of(RunResult())["latency_p50_s"] is None, "no NaN gets out"


def test_what_makes_a_run_fail():
    load = Workload(programs=2, turns=3)
    good = result(load)
    assert problems(good, load) == []
    broken = [replace(program, error="HTTP 500", turns=1) for program in good.programs]
    assert problems(replace(good, programs=broken), load) == ["HTTP 500"]
    short = [replace(program, turns=2) for program in good.programs]
    assert problems(replace(good, programs=short), load) == ["4 of 6 turns were finished"]
    (message,) = problems(replace(good, requests=good.requests[:-1]), load)
    assert "tokens instead of" in message


def test_results_are_stored_and_read_again(tmp_path):
    kept = record.Record(dict(ABOUT), runs("paper", 90.0, math.nan))
    record.save(kept, tmp_path / "deep" / "agents.json")
    content = json.loads((tmp_path / "deep" / "agents.json").read_text())
    assert content["runs"][1]["figures"]["steps_per_min"] is None
    assert content["summary"][0]["arm"] == "paper"
    again = record.load(tmp_path / "deep" / "agents.json")
    assert again.about == ABOUT
    assert again.runs[0] == kept.runs[0]
    for text in ("", "[]", "{}", '{"runs": [{}], "summary": []}'):
        (tmp_path / "wrong.json").write_text(text)
        with pytest.raises(record.NoRecordError, match=r"wrong\.json"):
            record.load(tmp_path / "wrong.json")


def test_the_table_in_markdown():
    made = session(passthrough=60.0, cap_8=60.6, paper=96.0) + runs("vllm-router", 1.0, errors=("it died",))
    text = report.markdown(record.Record(ABOUT, made), ["plots/a.png"])
    lines = [line for line in text.splitlines() if line.startswith("|")]
    assert {line.count("|") for line in lines} == {len(report.HEADINGS) + 1}
    assert "| cap:8 | 61 (30–61) | 1.01 (tie) |" in text
    assert "| paper | 96 (48–96) | 1.60 |" in text
    assert "| vllm-router | failed |" in text
    assert "seed 1: it died" in text
    assert "- paper over the best cap (cap:8): 1.58" in text
    assert "![plots/a.png](plots/a.png)" in text
    assert "python -m benchmarks.agents --testbed --cap 8\n" in text


def test_the_table_takes_its_place_in_a_page(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(f"before\n{report.BEGIN}\nold\n{report.END}\nafter\n")
    kept = record.Record(ABOUT, session(passthrough=60.0))
    for _ in range(2):
        report.write(kept, page)
        text = page.read_text()
        assert text.startswith(f"before\n{report.BEGIN}\n")
        assert text.endswith(f"\n{report.END}\nafter\n")
        assert text.count("| passthrough |") == 1
        assert "old" not in text
    report.write(kept, tmp_path / "new" / "page.md", [tmp_path / "plots" / "a.png"])
    assert "(../plots/a.png)" in (tmp_path / "new" / "page.md").read_text()


@pytest.mark.parametrize(
    "page", ["", report.BEGIN, f"{report.END} {report.BEGIN}", f"{report.BEGIN} {report.END} " * 2]
)
def test_a_page_without_a_place_is_refused_before_anything_runs(tmp_path, capsys, page):
    (tmp_path / "page.md").write_text(page)
    with pytest.raises(SystemExit):
        agents.parse(["--simulated", "--report", str(tmp_path / "page.md")])
    assert report.BEGIN in capsys.readouterr().err
    assert (tmp_path / "page.md").read_text() == page


def test_pictures_are_drawn_of_what_there_is(tmp_path):
    made = session(passthrough=60.0, paper=96.0) + runs("vllm-router", 1.0, errors=("it died",))
    files = plots.draw(made, tmp_path / "plots")
    assert len(files) == 3
    assert all(file.stat().st_size > 1000 for file in files)
    assert all(file.stat().st_size > 100 for file in plots.draw([], tmp_path / "plots"))
