"""Engines that come, fall silent, come back, are drained, fail to take a request, or serve other models."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from thunderagent_core.scheduling.decisions import Detach, Forward, Pause, Reason, Reclaim, Refuse, Restore
from thunderagent_core.scheduling.events import (
    BackendAdded,
    BackendDrained,
    BackendLost,
    BackendSampled,
    ForwardFailed,
    Outcome,
    ProgramIdled,
    RequestArrived,
    TokensGenerated,
)

if TYPE_CHECKING:
    from .driver import Driver


def _two(drive, policy: str = "paper", **settings: float) -> Driver:
    shell = drive(policy, **settings)
    shell.backend("a", 10_000)
    shell.backend("b", 9_000)
    return shell


def test_an_engine_gets_nothing_before_its_first_sample(drive) -> None:
    shell = drive()
    shell.on(BackendAdded("a"))
    assert shell.arrive("r1", "p") == [Refuse("p", "r1", Reason.NO_BACKEND, 5.0)]
    assert shell.scheduler.programs == {}, "a refusal leaves no trace"
    shell.sample("a", 10_000)
    assert shell.arrive("r2", "p") == [Restore("p", "a", Reason.NEW), Forward("p", "r2", "a")]


def test_a_larger_pool_lets_the_queue_in_at_once(shell: Driver) -> None:
    shell.arrive("r1", "p", 7_000)
    shell.arrive("r2", "q", 7_000)
    assert shell.sample("a", 15_000) == [Restore("q", "a", Reason.NEW), Forward("q", "r2", "a")]


def test_a_smaller_pool_pauses_at_once(drive) -> None:
    shell = drive(decay_base=1.0)
    shell.backend("a", 10_000)
    shell.turn("p", 3_000)
    shell.turn("q", 4_000)
    assert shell.sample("a", 5_000) == [Pause("p", "a", Reason.THRASHING)]


def test_acting_programs_leave_a_lost_engine_at_once_others_when_their_requests_end(drive) -> None:
    shell = _two(drive)
    shell.turn("acting", 1_000)
    shell.arrive("r1", "reasoning", 100)  # b has less demand but less room as well
    assert shell.in_flight["r1"][1] == "a"
    assert shell.on(BackendLost("a")) == [Pause("acting", "a", Reason.BACKEND_LOST)]
    assert shell.end("r1", outcome=Outcome.UPSTREAM_ERROR) == [Pause("reasoning", "a", Reason.BACKEND_LOST)]
    assert shell.arrive("r2", "acting", 1_000)[0] == Restore("acting", "b", Reason.FITS, moved=True)


def test_a_request_that_a_lost_engine_did_not_take_goes_to_another(drive) -> None:
    shell = _two(drive)
    shell.arrive("r1", "p", 1_000)
    shell.on(BackendLost("a"))
    assert shell.on(ForwardFailed("r1", "a")) == [
        Pause("p", "a", Reason.BACKEND_LOST),
        Restore("p", "b", Reason.FITS, moved=True),
        Forward("p", "r1", "b"),
    ]


def test_a_request_that_a_live_engine_did_not_take_goes_to_another_and_its_program_stays(drive) -> None:
    shell = _two(drive)
    shell.arrive("r1", "p", 1_000)
    assert shell.on(ForwardFailed("r1", "a")) == [Forward("p", "r1", "b")]
    shell.end("r1", 1_000, 10)
    assert shell.arrive("r2", "p", 1_000) == [Forward("p", "r2", "a")]


def test_without_another_engine_a_request_goes_to_the_same_again(shell: Driver) -> None:
    shell.arrive("r1", "p", 1_000)
    assert shell.on(ForwardFailed("r1", "a")) == [Forward("p", "r1", "a")]


def test_a_stale_report_of_a_failure_changes_nothing(drive) -> None:
    shell = _two(drive)
    shell.arrive("r1", "p", 1_000)
    shell.on(ForwardFailed("r1", "a"))
    assert shell.scheduler.handle(ForwardFailed("r1", "a"), shell.now) == []
    assert shell.scheduler.handle(ForwardFailed("never-seen", "a"), shell.now) == []
    assert shell.in_flight["r1"] == ("p", "b")


def test_with_the_only_engine_lost_a_request_waits_until_it_is_back(shell: Driver) -> None:
    shell.arrive("r1", "p", 1_000)
    shell.on(BackendLost("a"))
    assert shell.on(ForwardFailed("r1", "a")) == [Pause("p", "a", Reason.BACKEND_LOST)]
    assert shell.arrive("r2", "q") == [Refuse("q", "r2", Reason.NO_BACKEND, 5.0)]
    shell.wait(30)
    assert shell.sample("a", 10_000) == [Restore("p", "a", Reason.FITS), Forward("p", "r1", "a")]


def test_patience_goes_on_while_a_failed_request_waits(shell: Driver) -> None:
    shell.arrive("r1", "p", 1_000, patience_s=20.0)
    shell.wait(10)
    shell.on(BackendLost("a"))
    shell.on(ForwardFailed("r1", "a"))
    assert shell.wait(30) == [(20.0, Refuse("p", "r1", Reason.PATIENCE, 1.0))]


def test_a_loss_that_was_none_is_taken_back(shell: Driver) -> None:
    shell.arrive("r1", "p", 1_000)
    shell.on(BackendLost("a"))
    assert shell.marked("a") == ["p"]
    assert shell.sample("a", 10_000) == []
    assert shell.marked("a") == []
    assert shell.end("r1", 1_000, 10) == []


@pytest.mark.parametrize("closed", [BackendLost, BackendDrained])
def test_a_parallel_turn_behind_a_closed_engine_goes_to_another_at_once(drive, closed) -> None:
    """The mark stays: once the old request is over, the program leaves the engine that is gone."""
    shell = _two(drive)
    shell.arrive("r1", "p", 1_000)
    shell.on(closed("a"))
    assert shell.arrive("r2", "p", 1_000) == [Forward("p", "r2", "b")]
    assert shell.end("r1", outcome=Outcome.TIMED_OUT) == []
    reason = Reason.BACKEND_LOST if closed is BackendLost else Reason.BACKEND_DRAINING
    assert shell.end("r2", 1_000, 10)[0] == Pause("p", "a", reason)


def test_a_request_that_a_lost_engine_did_not_take_goes_on_while_another_one_hangs_there(drive) -> None:
    shell = _two(drive)
    shell.arrive("r1", "p", 1_000)
    shell.arrive("r2", "p", 1_000)
    shell.on(BackendLost("a"))
    assert shell.on(ForwardFailed("r1", "a")) == [Forward("p", "r1", "b")]
    shell.end("r1", 1_000, 10)
    assert shell.end("r2", outcome=Outcome.TIMED_OUT) == [Pause("p", "a", Reason.BACKEND_LOST)]


def test_a_parallel_turn_behind_the_only_engine_keeps_its_place_until_that_is_back(drive) -> None:
    shell = _two(drive, max_wait_s=50.0)
    shell.on(BackendDrained("b"))
    shell.arrive("r1", "p", 1_000)
    shell.arrive("r2", "p", 1_000)
    shell.on(BackendLost("a"))
    assert shell.on(ForwardFailed("r2", "a")) == []
    shell.wait(20)
    assert shell.sample("a", 10_000) == [Forward("p", "r2", "a")]
    shell.on(BackendLost("a"))
    assert shell.on(ForwardFailed("r2", "a")) == []
    told = shell.wait(60)
    assert told == [(50.0, Refuse("p", "r2", Reason.NO_BACKEND, 5.0))], "the 20 seconds before count as well"


def test_a_wait_that_an_engine_cut_short_by_failing_goes_on(drive) -> None:
    shell = drive(max_wait_s=100.0, decay_base=1.0)
    shell.backend("a", 10_000)
    shell.arrive("r1", "p", 9_000)
    shell.arrive("r2", "q", 9_000)
    assert [when for when, _ in shell.wait(100)] == [100.0, 100.0]
    shell.on(BackendLost("a"))
    assert shell.on(ForwardFailed("r2", "a")) == [
        Pause("q", "a", Reason.BACKEND_LOST),
        Refuse("q", "r2", Reason.NO_BACKEND, 5.0),
    ]


def test_a_program_whose_requests_ask_for_two_models_is_served_for_the_older_one(drive) -> None:
    shell = drive(decay_base=1.0)
    shell.backend("a", 10_000, "small")
    shell.backend("b", 10_000, "large")
    shell.arrive("r-a", "x", 9_900, model="small")
    shell.arrive("r-b", "y", 9_900, model="large")
    shell.arrive("r1", "p", 1_000, model="small")
    shell.arrive("r2", "p", 1_000, model="large")
    shell.on(BackendLost("b"))
    shell.end("r-a", outcome=Outcome.UPSTREAM_ERROR)
    assert shell.in_flight["r1"] == ("p", "a")
    assert "r2" in shell.held, "it keeps its place until an engine for it is there"
    shell.sample("b", 10_000, "large")
    assert shell.in_flight["r2"] == ("p", "b")


def test_a_program_that_only_an_engine_which_is_down_could_hold_waits_for_it(drive) -> None:
    shell = drive()
    shell.backend("small", 10_000)
    shell.on(BackendAdded("large"))
    assert shell.on(RequestArrived("r1", "p", prompt_tokens=30_000)) == [], "nobody knows yet how large it is"
    assert shell.sample("large", 50_000) == [Restore("p", "large", Reason.NEW), Forward("p", "r1", "large")]


def test_home_is_where_it_was_served_last_even_after_a_loss_that_was_none(drive) -> None:
    shell = drive(decay_base=1.0)
    shell.backend("a", 10_000)
    shell.arrive("r1", "p", 1_000)
    shell.on(BackendLost("a"))
    shell.sample("a", 10_000)
    shell.end("r1", 1_000, 10)
    shell.backend("b", 20_000)
    shell.turn("p", 1_500)
    shell.on(ProgramIdled("p"))
    shell.wait(1)
    assert shell.arrive("r2", "p", 1_600)[0] == Restore("p", "a", Reason.FITS, moved=False)


def test_at_the_bound_without_another_engine_it_is_refused(shell: Driver) -> None:
    shell.arrive("r1", "p", 1_000)
    shell.arrive("r2", "q", 9_500)
    shell.on(TokensGenerated("r1", 9_500))
    shell.on(BackendLost("a"))
    told = [decision for _, decision in shell.wait(400)]
    assert told == [Refuse("q", "r2", Reason.NO_BACKEND, 5.0)]


def test_draining_moves_programs_off_and_ends_when_nothing_is_in_flight(drive) -> None:
    shell = _two(drive)
    shell.turn("acting", 1_000)
    shell.arrive("r1", "reasoning", 100)
    assert shell.on(BackendDrained("a")) == [Pause("acting", "a", Reason.BACKEND_DRAINING)]
    assert shell.arrive("r2", "acting", 1_000)[0] == Restore("acting", "b", Reason.FITS, moved=True)
    assert shell.end("r1", 100, 10) == [Pause("reasoning", "a", Reason.BACKEND_DRAINING), Detach("a")]
    assert set(shell.scheduler.backends) == {"b"}


def test_an_idle_engine_is_let_go_at_once_and_only_once(drive) -> None:
    shell = _two(drive)
    assert shell.on(BackendDrained("b")) == [Detach("b")]
    assert shell.on(BackendDrained("b")) == []
    assert shell.scheduler.handle(BackendSampled("b", 9_000), shell.now) == []
    assert shell.wait(10) == []


def test_a_draining_engine_waits_for_untracked_and_orphaned_requests(drive) -> None:
    shell = _two(drive)
    shell.arrive("r1", None)
    shell.arrive("r2", "p", 100)
    shell.release("p")
    assert shell.in_flight == {"r1": (None, "a"), "r2": ("p", "a")}
    assert shell.on(BackendDrained("a")) == []
    assert shell.end("r1") == []
    assert shell.end("r2") == [Detach("a")]


def test_an_engine_stays_while_a_program_that_is_bound_to_it_runs_elsewhere(drive) -> None:
    shell = drive()
    shell.backend("a", 10_000, "small")
    shell.backend("b", 10_000, "large")
    shell.arrive("r1", "p", model="small")
    assert shell.arrive("r2", "p", model="large") == [Forward("p", "r2", "b")]
    shell.on(BackendDrained("a"))
    assert shell.end("r1", 100, 10, 0) == []
    assert shell.end("r2", 100, 10, 0) == [Pause("p", "a", Reason.BACKEND_DRAINING), Detach("a")]


def test_the_last_engine_drained_leaves_the_queue_to_its_bound(shell: Driver) -> None:
    shell.arrive("r1", "p", 7_000)
    shell.arrive("r2", "q", 7_000)
    shell.on(BackendDrained("a"))
    assert shell.end("r1", 7_000, 10) == [Pause("p", "a", Reason.BACKEND_DRAINING), Detach("a")]
    assert shell.wait(301) == [(300.0, Refuse("q", "r2", Reason.NO_BACKEND, 5.0))]


def test_each_model_goes_where_it_is_served(drive) -> None:
    shell = drive()
    shell.backend("a", 10_000, "small")
    shell.backend("b", 10_000, "large", "shared")
    assert shell.arrive("r1", "p", model="large")[0] == Restore("p", "b", Reason.NEW)
    assert shell.arrive("r2", "q", model="small")[0] == Restore("q", "a", Reason.NEW)
    assert shell.arrive("r3", "p", model="shared") == [Forward("p", "r3", "b")]


def test_a_full_engine_does_not_hold_up_the_queue_for_another_model(drive) -> None:
    shell = drive()
    shell.backend("a", 10_000, "small")
    shell.backend("b", 10_000, "large")
    shell.arrive("r1", "p", 9_000, model="small")
    assert shell.arrive("r2", "q", 9_000, model="small") == []
    assert shell.arrive("r3", "s", 9_500, model="large")[0] == Restore("s", "b", Reason.NEW)


def test_a_model_that_nobody_serves_is_for_an_engine_to_refuse(drive) -> None:
    shell = drive()
    shell.backend("a", 10_000, "small")
    assert shell.arrive("r1", "p", model="unheard-of") == [Restore("p", "a", Reason.NEW), Forward("p", "r1", "a")]


def test_who_waits_for_a_model_that_is_served_no_more_goes_where_it_is_refused(drive) -> None:
    """The engine's own answer, 404, comes at once rather than when the wait has reached its bound."""
    shell = drive(tick_s=3_600.0)
    shell.backend("a", 10_000, "small")
    shell.backend("b", 10_000, "large")
    for program in "pqs":
        shell.arrive(f"r-{program}", program, 6_000, model="small")
    assert set(shell.held) == {"r-q", "r-s"}
    moved = [Restore("q", "b", Reason.NEW), Forward("q", "r-q", "b")]
    assert shell.sample("a", 10_000, "another") == moved
    shell.end("r-q", outcome=Outcome.UPSTREAM_ERROR)


def test_who_waits_for_the_model_of_an_engine_that_left_goes_where_it_is_refused(drive) -> None:
    shell = drive(tick_s=3_600.0)
    shell.backend("a", 10_000, "small")
    shell.backend("b", 10_000, "large")
    shell.arrive("r1", "p", 6_000, model="small")
    shell.arrive("r2", "q", 6_000, model="small")
    assert shell.on(BackendDrained("a")) == []
    assert shell.end("r1", 6_000, 0) == [
        Pause("p", "a", Reason.BACKEND_DRAINING),
        Detach("a"),
        Restore("q", "b", Reason.NEW),
        Forward("q", "r2", "b"),
    ]


def test_a_held_request_whose_model_has_lost_its_engine_keeps_its_place_until_the_bound(drive) -> None:
    shell = drive(max_wait_s=100.0)
    shell.backend("a", 10_000, "small")
    shell.backend("b", 10_000, "large")
    shell.arrive("r1", "p", 2_000, model="small")
    shell.arrive("r2", "q", 7_000, model="small")
    shell.on(TokensGenerated("r2", 2_000))
    assert shell.marked("a") == ["p"]
    assert shell.arrive("r3", "p", 100, model="large") == []
    shell.on(BackendLost("b"))
    assert shell.end("r2", outcome=Outcome.UPSTREAM_ERROR) == []
    assert shell.wait(200) == [(100.0, Refuse("p", "r3", Reason.NO_BACKEND, 5.0))]


def test_what_an_ended_program_left_running_counts_where_it_runs(drive) -> None:
    shell = drive(decay_base=1.0)
    shell.backend("a", 10_000, "small")
    shell.backend("b", 10_000, "large")
    for program, tokens in (("long", 4_000), ("short", 2_000)):
        shell.arrive(f"r-{program}", program, tokens, model="large")
        shell.end(f"r-{program}", tokens, 0)
    shell.arrive("r2", "p", 3_000, model="small")
    assert shell.arrive("r3", "p", 5_000, model="large") == [Forward("p", "r3", "b")]
    assert shell.demand("b") == 6_000, "a bound program counts at its own engine"
    assert shell.release("p") == [Reclaim("p", "released"), Pause("short", "b", Reason.THRASHING)]
    assert (shell.demand("a"), shell.demand("b")) == (3_000, 9_000)
