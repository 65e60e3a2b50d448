"""How long a request may be held, and what a client's patience does to it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from thunderagent_core.scheduling.decisions import Forward, Pause, Reason, Reclaim, Refuse, Restore
from thunderagent_core.scheduling.events import BackendLost, Outcome, RequestEnded, TokensGenerated

if TYPE_CHECKING:
    from .driver import Driver


def _busy(drive, **settings: float) -> Driver:
    """Return a driver whose only pool is filled by ``p``, whose request does not end."""
    shell = drive(decay_base=1.0, **settings)
    shell.backend("a", 10_000)
    shell.arrive("r0", "p", 9_000)
    return shell


def test_a_wait_ends_in_a_forced_admission_at_the_bound(drive) -> None:
    shell = _busy(drive, max_wait_s=100.0)
    shell.wait(7)
    shell.arrive("r1", "q", 5_000)
    assert shell.wait(99.9) == []
    told = shell.wait(0.2)
    assert told == [(107.0, Restore("q", "a", Reason.WAIT_BOUND)), (107.0, Forward("q", "r1", "a"))]
    assert shell.marked("a") == ["q"], "it is served, and is the first to go after that"
    assert shell.program("q").longest_wait_s == 100


def test_the_bound_holds_for_a_program_that_waits_behind_its_own_mark(drive) -> None:
    shell = _busy(drive, max_wait_s=100.0)
    shell.arrive("r1", "q", 500)
    shell.on(TokensGenerated("r0", 600))
    assert shell.marked("a") == ["q"]
    assert shell.arrive("r2", "q", 500) == []
    assert shell.wait(100) == [(100.0, Forward("q", "r2", "a"))]


def test_half_way_to_the_bound_a_program_goes_before_smaller_ones(drive) -> None:
    shell = _busy(drive, max_wait_s=100.0)
    shell.arrive("r1", "large", 5_000)
    shell.wait(49)
    shell.arrive("r2", "small", 2_000)
    shell.wait(1)
    told = shell.end("r0", outcome=Outcome.UPSTREAM_ERROR)
    assert [decision.program_id for decision in told if isinstance(decision, Restore)] == ["large", "small"]


def test_an_aged_program_is_not_overtaken_by_what_would_fit(drive) -> None:
    shell = _busy(drive, max_wait_s=100.0)
    shell.arrive("r1", "large", 5_000)
    shell.wait(49)
    assert len(shell.arrive("r2", "small-1", 500)) == 2, "young, it is overtaken"
    shell.wait(2)
    assert shell.arrive("r3", "small-2", 400) == []


def test_aged_programs_go_in_the_order_of_their_arrival(drive) -> None:
    shell = _busy(drive, max_wait_s=100.0)
    for number, tokens in enumerate((3_000, 1_500, 2_000)):
        shell.arrive(f"r{number + 1}", f"q{number}", tokens)
        shell.wait(1)
    shell.wait(60)
    told = shell.end("r0", outcome=Outcome.UPSTREAM_ERROR)
    assert [decision.program_id for decision in told if isinstance(decision, Restore)] == ["q0", "q1", "q2"]


def test_a_refusal_comes_when_the_clients_patience_ends(drive) -> None:
    shell = _busy(drive)
    assert shell.arrive("r1", "q", 5_000, patience_s=30.0) == []
    assert shell.wait(60) == [(30.0, Refuse("q", "r1", Reason.PATIENCE, 1.0))]
    assert shell.scheduler.waiting == 0


def test_patience_ends_with_the_wait(drive) -> None:
    shell = _busy(drive)
    shell.arrive("r1", "q", 5_000, patience_s=30.0)
    assert len(shell.end("r0", outcome=Outcome.UPSTREAM_ERROR)) == 2
    assert shell.wait(60) == []


def test_only_the_impatient_request_of_several_is_refused(drive) -> None:
    shell = _busy(drive)
    shell.arrive("r1", "q", 2_500, patience_s=30.0)
    shell.arrive("r2", "q", 2_500)
    assert shell.wait(60) == [(30.0, Refuse("q", "r1", Reason.PATIENCE, 1.0))]
    assert shell.end("r0", outcome=Outcome.UPSTREAM_ERROR) == [
        Restore("q", "a", Reason.NEW),
        Forward("q", "r2", "a"),
    ]


def test_a_prompt_retry_takes_its_old_place(drive) -> None:
    shell = _busy(drive, max_wait_s=100.0)
    shell.arrive("r1", "q", 5_000, patience_s=40.0)
    assert shell.wait(41) == [(40.0, Refuse("q", "r1", Reason.PATIENCE, 1.0))]
    shell.arrive("r2", "smaller", 2_000)
    shell.arrive("r3", "q", 5_000, patience_s=40.0)
    shell.wait(10)
    told = shell.end("r0", outcome=Outcome.UPSTREAM_ERROR)
    assert [decision.program_id for decision in told if isinstance(decision, Restore)] == ["q", "smaller"]


def test_the_bound_counts_from_the_first_try(drive) -> None:
    shell = _busy(drive, max_wait_s=100.0)
    shell.arrive("r1", "q", 5_000, patience_s=80.0)
    shell.wait(81)
    shell.arrive("r2", "q", 5_000, patience_s=80.0)
    assert shell.wait(60) == [(100.0, Restore("q", "a", Reason.WAIT_BOUND)), (100.0, Forward("q", "r2", "a"))]


def test_a_retry_after_the_bound_is_admitted_at_once(drive) -> None:
    shell = _busy(drive, max_wait_s=100.0)
    shell.arrive("r1", "q", 5_000, patience_s=80.0)
    shell.wait(130)
    assert shell.arrive("r2", "q", 5_000) == [Restore("q", "a", Reason.WAIT_BOUND), Forward("q", "r2", "a")]


def test_a_late_retry_starts_anew(drive) -> None:
    shell = _busy(drive, max_wait_s=100.0)
    shell.arrive("r1", "q", 5_000, patience_s=20.0)
    shell.wait(20 + 61)
    assert shell.arrive("r2", "q", 5_000) == []
    told = shell.wait(150)
    assert told == [(181.0, Restore("q", "a", Reason.WAIT_BOUND)), (181.0, Forward("q", "r2", "a"))]


def test_a_client_that_hangs_up_while_waiting_leaves_nothing_behind(drive) -> None:
    shell = _busy(drive, max_wait_s=100.0)
    shell.arrive("r1", "q", 5_000)
    shell.wait(10)
    assert shell.on(RequestEnded("r1", Outcome.DISCONNECTED)) == []
    assert shell.scheduler.waiting == 0
    assert shell.wait(300) == []
    assert shell.program("q").steps == 0


def test_a_broken_off_wait_is_measured_until_it_broke_off(drive) -> None:
    shell = _busy(drive, max_wait_s=1_000.0)
    shell.arrive("r1", "q", 500)
    shell.on(TokensGenerated("r0", 600))
    shell.arrive("r2", "q", 100)
    shell.wait(10)
    shell.end("r2", outcome=Outcome.DISCONNECTED)
    shell.wait(900)
    assert shell.end("r0", outcome=Outcome.UPSTREAM_ERROR) == []
    assert shell.marked("a") == []
    assert shell.arrive("r3", "q", 100) == [Forward("q", "r3", "a")]
    assert shell.program("q").longest_wait_s == 10


def test_with_no_engine_left_the_bound_ends_in_a_refusal(drive) -> None:
    shell = _busy(drive, max_wait_s=100.0)
    shell.arrive("r1", "q", 5_000)
    assert shell.on(BackendLost("a")) == []
    assert shell.end("r0", outcome=Outcome.UPSTREAM_ERROR) == [Pause("p", "a", Reason.BACKEND_LOST)]
    assert shell.wait(200) == [(100.0, Refuse("q", "r1", Reason.NO_BACKEND, 5.0))]
    assert shell.release("q") == [Reclaim("q", "released")]


def test_a_refused_program_acts_since_its_refusal(drive) -> None:
    shell = _busy(drive)
    shell.arrive("r1", "q", 5_000, patience_s=30.0)
    shell.wait(60)
    assert (shell.program("q").phase, shell.program("q").phase_since) == ("acting", 30.0)


def test_what_a_parallel_request_left_behind_survives_the_refusal_of_another(drive) -> None:
    shell = _busy(drive)
    shell.arrive("r1", "q", 500)
    shell.on(TokensGenerated("r0", 600))
    shell.arrive("r2", "q", 600, patience_s=30.0)
    assert shell.end("r1", 500, 20) == [Pause("q", "a", Reason.THRASHING)]
    shell.wait(60)
    assert shell.program("q").context_tokens == 520


def test_a_timer_that_fires_late_does_all_that_was_due(drive) -> None:
    shell = _busy(drive, max_wait_s=100.0)
    shell.arrive("r1", "impatient", 5_000, patience_s=30.0)
    shell.arrive("r2", "bounded", 5_000)
    shell.now = 500.0
    told = [decision for _, decision in shell.wait(0)]
    assert told == [
        Refuse("impatient", "r1", Reason.PATIENCE, 1.0),
        Restore("bounded", "a", Reason.WAIT_BOUND),
        Forward("bounded", "r2", "a"),
    ]
