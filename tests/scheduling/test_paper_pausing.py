"""The paper's policy, first half: when programs are paused, and which (equations 6, 7 and 11)."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import pytest

from thunderagent_core.scheduling.decisions import Forward, Pause, Reason, Restore
from thunderagent_core.scheduling.events import Outcome, TokensGenerated
from thunderagent_core.scheduling.program import Phase, Status

if TYPE_CHECKING:
    from .driver import Driver


def test_a_new_program_is_placed_and_its_request_forwarded(shell: Driver) -> None:
    assert shell.arrive("r1", "p", 1_000) == [Restore("p", "a", Reason.NEW), Forward("p", "r1", "a")]
    assert shell.program("p").phase is Phase.REASONING
    assert shell.demand("a") == 1_000
    assert shell.end("r1", 1_000, 50) == []
    assert shell.program("p").phase is Phase.ACTING
    assert shell.demand("a") == 1_050


def test_the_next_request_of_an_active_program_goes_on_at_once(shell: Driver) -> None:
    shell.turn("p", 1_000)
    assert shell.arrive("r2", "p", 1_200) == [Forward("p", "r2", "a")]


def test_eq_6_without_decay_acting_programs_count_in_full(drive) -> None:
    shell = drive(decay_base=1.0, tick_s=1.0)
    shell.backend("a", 10_000)
    shell.turn("old", 4_000)
    shell.turn("p", 5_000)
    shell.wait(900)
    assert shell.demand("a") == 9_000
    assert shell.arrive("r1", "p", 7_000) == [Forward("p", "r1", "a"), Pause("old", "a", Reason.THRASHING)]


def test_eq_7_with_decay_a_long_acting_program_weighs_little(shell: Driver) -> None:
    shell.turn("old", 4_000)
    shell.turn("p", 5_000)
    shell.wait(5)
    assert shell.demand("a") == pytest.approx(4_500)
    shell.wait(5)
    assert shell.demand("a") == pytest.approx(2_250)
    assert shell.arrive("r1", "p", 7_000) == [Forward("p", "r1", "a")]
    assert shell.demand("a") == pytest.approx(8_000)


@pytest.mark.parametrize(("base", "interval_s", "left"), [(2.0, 5.0, 0.125), (4.0, 5.0, 1 / 64), (2.0, 15.0, 0.5)])
def test_the_decay_has_a_base_and_an_interval(drive, base: float, interval_s: float, left: float) -> None:
    shell = drive(decay_base=base, decay_interval_s=interval_s)
    shell.backend("a", 10_000)
    shell.turn("p", 8_000)
    shell.wait(15)
    assert shell.demand("a") == pytest.approx(8_000 * left)


def test_reaching_the_high_watermark_is_not_thrashing(drive) -> None:
    shell = drive(decay_base=1.0, high_watermark=0.8)
    shell.backend("a", 10_000)
    shell.turn("q", 3_000)
    shell.arrive("r1", "p", 5_000)
    assert shell.demand("a") == 8_000
    assert shell.program("q").status is Status.ACTIVE
    assert shell.on(TokensGenerated("r1", 1)) == [Pause("q", "a", Reason.THRASHING)]


def test_eq_11_acting_programs_go_first_then_the_shorter(drive) -> None:
    shell = drive(decay_base=1.0)
    shell.backend("a", 10_000)
    shell.turn("acting-long", 3_000)
    shell.turn("acting-short", 1_000)
    shell.arrive("r1", "reasoning-short", 500)
    shell.arrive("r2", "p", 2_000)
    assert shell.on(TokensGenerated("r2", 3_600)) == [Pause("acting-short", "a", Reason.THRASHING)]
    assert shell.on(TokensGenerated("r2", 1_000)) == [Pause("acting-long", "a", Reason.THRASHING)]
    assert shell.on(TokensGenerated("r2", 3_000)) == []
    assert shell.marked("a") == ["reasoning-short"]


def test_only_as_many_are_paused_as_needed(drive) -> None:
    shell = drive(decay_base=1.0)
    shell.backend("a", 10_000)
    for program, tokens in (("two", 2_000), ("one", 1_000), ("three", 3_000)):
        shell.turn(program, tokens)
    shell.arrive("r1", "p", 4_000)
    paused = [Pause("one", "a", Reason.THRASHING), Pause("two", "a", Reason.THRASHING)]
    assert shell.on(TokensGenerated("r1", 1_500)) == paused
    assert shell.program("three").status is Status.ACTIVE


def test_growth_while_nothing_arrives_is_seen_at_once(shell: Driver) -> None:
    shell.arrive("r1", "p", 5_000)
    shell.arrive("r2", "q", 4_900)
    assert shell.on(TokensGenerated("r1", 100)) == []
    assert shell.marked("a") == []
    assert shell.on(TokensGenerated("r1", 1)) == []
    assert shell.marked("a") == ["q"]


def test_a_reasoning_victim_finishes_its_request_first(shell: Driver) -> None:
    shell.arrive("r1", "p", 6_000)
    shell.arrive("r2", "q", 3_000)
    shell.on(TokensGenerated("r1", 1_001))
    assert shell.program("q").status is Status.ACTIVE
    assert shell.end("r2", 3_000, 10) == [Pause("q", "a", Reason.THRASHING)]
    assert shell.program("q").backend is None
    assert shell.end("r1", 6_000, 1_001) == []


def test_a_new_request_of_a_marked_program_waits(shell: Driver) -> None:
    shell.arrive("r1", "p", 6_000)
    shell.arrive("r2", "q", 3_000)
    shell.on(TokensGenerated("r1", 1_001))
    assert shell.arrive("r3", "q", 3_100) == []
    assert shell.end("r2", 3_000, 10) == [Pause("q", "a", Reason.THRASHING)]
    assert shell.scheduler.waiting == 1
    assert shell.end("r1", outcome=Outcome.UPSTREAM_ERROR) == [
        Restore("q", "a", Reason.FITS),
        Forward("q", "r3", "a"),
    ]


def test_marks_are_taken_back_when_the_pressure_is_gone(shell: Driver) -> None:
    shell.arrive("r1", "p", 6_000)
    shell.arrive("r2", "q", 3_000)
    shell.on(TokensGenerated("r1", 1_001))
    assert shell.arrive("r3", "q", 500) == []
    assert shell.end("r1", outcome=Outcome.UPSTREAM_ERROR) == [Forward("q", "r3", "a")]
    assert shell.marked("a") == []
    assert shell.end("r2", 3_000, 10) == []


def test_a_mark_that_decay_makes_needless_is_taken_back_at_that_moment(drive) -> None:
    shell = drive(tick_s=60.0)
    shell.backend("a", 10_000)
    for program, tokens in (("q", 2_000), ("p1", 4_000), ("p2", 3_900)):
        shell.arrive(f"r-{program}", program, tokens)
    shell.on(TokensGenerated("r-p2", 200))
    assert shell.arrive("r4", "q", 100) == []
    assert shell.end("r-p1", 4_000, 0) == []
    (when, forward), *_ = shell.wait(10)
    assert forward == Forward("q", "r4", "a")
    assert when == pytest.approx(5 * math.log2(4_000 / (10_000 - 4_100 - 2_100)), abs=0.002)
    assert shell.marked("a") == []


def test_the_latest_mark_is_taken_back_first(shell: Driver) -> None:
    for program, tokens in (("small", 1_000), ("middle", 2_000), ("large", 3_000), ("p", 3_500)):
        shell.arrive(f"r-{program}", program, tokens)
    shell.on(TokensGenerated("r-p", 600))
    assert shell.marked("a") == ["small"]
    shell.on(TokensGenerated("r-p", 1_000))
    assert shell.marked("a") == ["small", "middle"]
    shell.end("r-large", 2_500, 0)
    assert shell.marked("a") == ["small"]


def test_the_last_program_that_is_not_marked_stays(shell: Driver) -> None:
    shell.arrive("r1", "p", 6_000)
    shell.arrive("r2", "q", 3_000)
    shell.on(TokensGenerated("r1", 6_000))
    assert shell.marked("a") == ["q"]
    assert shell.demand("a") == 12_000


def test_the_last_program_of_a_backend_stays(shell: Driver) -> None:
    shell.arrive("r1", "p", 9_000)
    assert shell.on(TokensGenerated("r1", 5_000)) == []
    assert shell.marked("a") == []
    assert shell.program("p").status is Status.ACTIVE
