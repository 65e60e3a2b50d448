"""Traces: every event and decision survives the way through JSON, and what is no trace is said to be none."""

from __future__ import annotations

import json
from dataclasses import fields
from typing import TYPE_CHECKING, Any, get_args

import pytest

from thunderagent_core.scheduling import events as ev
from thunderagent_core.scheduling.decisions import Decision, Forward, Reason, Restore
from thunderagent_core.scheduling.settings import SchedulerSettings
from thunderagent_core.scheduling.trace import Mismatch, TraceError, _build, _plain, header_line, replay, step_line

if TYPE_CHECKING:
    from .driver import Driver

_SAMPLES: dict[str, Any] = {
    "outcome": ev.Outcome.TIMED_OUT,
    "models": ("small", "large"),
    "reason": Reason.THRASHING,
    "moved": True,
    "retry_after_s": 1.5,
    "patience_s": 0.1,
    "tokens": 3,
}


@pytest.mark.parametrize("kind", get_args(ev.Event) + get_args(Decision))
def test_every_event_and_decision_survives_json(kind: type[Any]) -> None:
    item = kind(**{field.name: _SAMPLES.get(field.name, f"the {field.name}") for field in fields(kind)})
    back = _build(json.loads(json.dumps(_plain(item))), get_args(ev.Event) + get_args(Decision))
    assert back == item
    assert [type(getattr(back, f.name)) for f in fields(kind)] == [type(getattr(item, f.name)) for f in fields(kind)]


def test_a_reason_given_by_a_client_stays_what_it_was(drive) -> None:
    shell = drive()
    shell.backend("a", 10_000)
    shell.turn("p", 100)
    shell.on(ev.ProgramReleased("p", "the run failed: 3 tests red"))
    assert [mismatch for mismatch in replay(shell.trace) if mismatch] == []


def test_times_survive_to_the_last_bit(shell: Driver) -> None:
    shell.turn("p", 9_000)
    shell.now = 1 / 3
    shell.arrive("r1", "q", 3_000)
    shell.wait(20)
    steps = [json.loads(line) for line in shell.trace[1:]]
    assert [type(step["now"]) for step in steps] == [float] * len(steps)
    assert shell.in_flight == {"r1": ("q", "a")}


def test_a_changed_decision_is_found_with_its_line(shell: Driver) -> None:
    shell.arrive("r1", "p", 100)
    lines = list(shell.trace)
    step = json.loads(lines[-1])
    step["decisions"][1]["backend_id"] = "elsewhere"
    lines[-1] = json.dumps(step)
    restore = Restore("p", "a", Reason.NEW)
    assert list(replay(lines)) == [
        None,
        None,
        Mismatch(4, [restore, Forward("p", "r1", "elsewhere")], [restore, Forward("p", "r1", "a")]),
    ]


def test_blank_lines_are_passed_over(shell: Driver) -> None:
    shell.arrive("r1", "p", 100)
    spread = [line for step in shell.trace for line in (step + "\n", "\n")]
    assert list(replay(spread)) == [None, None, None]


GOOD_HEADER = header_line("paper", SchedulerSettings())
GOOD_STEP = step_line(1.0, ev.Tick(), [])


@pytest.mark.parametrize(
    "header",
    [
        "not json",
        "[]",
        "5",
        "{}",
        '{"trace": 1}',
        GOOD_HEADER.replace('"paper"', '"papr"'),
        GOOD_HEADER.replace('"tick_s"', '"tock_s"'),
        GOOD_HEADER.replace('"trace": 1', '"trace": 99'),
        '{"trace": 1, "policy": "paper", "settings": 5}',
    ],
)
def test_what_does_not_start_like_a_trace_is_refused_with_its_line(header: str) -> None:
    with pytest.raises(TraceError, match=r"^line 1: "):
        list(replay([header, GOOD_STEP]))


@pytest.mark.parametrize(
    "step",
    [
        "not json",
        "[]",
        "{}",
        '{"now": 1.0}',
        '{"now": null, "event": {"type": "Tick"}, "decisions": []}',
        '{"now": 1.0, "event": {"type": "Tock"}, "decisions": []}',
        '{"now": 1.0, "event": {"type": "Tick", "extra": 1}, "decisions": []}',
        '{"now": 1.0, "event": {"type": "Forward"}, "decisions": []}',
        '{"now": 1.0, "event": {"type": "Tick"}, "decisions": [{"type": "Tick"}]}',
        '{"now": 1.0, "event": {"type": "RequestEnded", "request_id": "r", "outcome": "odd"}, "decisions": []}',
    ],
)
def test_what_is_no_step_is_refused_with_its_line(step: str) -> None:
    with pytest.raises(TraceError, match=r"^line 3: "):
        list(replay([GOOD_HEADER, GOOD_STEP, step]))


def test_an_empty_text_is_no_trace() -> None:
    with pytest.raises(TraceError, match=r"^line 1: "):
        list(replay([]))
