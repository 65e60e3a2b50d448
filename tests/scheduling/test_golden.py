"""Golden traces: recorded scenarios that must replay to the same decisions.

When a policy is meant to decide differently, record them again, and read the difference before committing it:

    python -m tests.scheduling.record_golden && git diff tests/scheduling/golden
"""

from __future__ import annotations

import pytest

from thunderagent_core.scheduling.trace import replay

from .driver import plain
from .record_golden import GOLDEN, text_of
from .scenarios import SCENARIOS


def test_there_is_one_trace_for_each_scenario() -> None:
    assert sorted(path.stem for path in GOLDEN.glob("*.jsonl")) == sorted(SCENARIOS)


@pytest.mark.parametrize("name", sorted(SCENARIOS))
def test_a_golden_trace_replays_to_the_same_decisions(name: str) -> None:
    lines = (GOLDEN / f"{name}.jsonl").read_text().splitlines()
    outcomes = list(replay(lines))
    assert len(outcomes) == len(lines) - 1
    assert [mismatch for mismatch in outcomes if mismatch is not None] == []


@pytest.mark.parametrize("name", sorted(SCENARIOS))
def test_a_scenario_still_records_its_golden_trace(name: str) -> None:
    now, then = (plain(text.splitlines()) for text in (text_of(name), (GOLDEN / f"{name}.jsonl").read_text()))
    times = [[step.pop("now") for step in steps[1:]] for steps in (now, then)]
    assert now == then
    assert times[0] == pytest.approx(times[1], rel=1e-12), "C libraries may differ in a logarithm's last bit"


def test_together_the_traces_show_every_kind_of_decision_and_most_events() -> None:
    steps = [step for path in GOLDEN.glob("*.jsonl") for step in plain(path.read_text().splitlines()[1:])]
    decisions = {decision["type"] for step in steps for decision in step["decisions"]}
    assert decisions == {"Restore", "Forward", "Pause", "Refuse", "Prepare", "Reclaim", "Detach"}
    reasons = {decision["reason"] for step in steps for decision in step["decisions"] if "reason" in decision}
    assert len(reasons) >= 10
    assert len({step["event"]["type"] for step in steps}) >= 14
