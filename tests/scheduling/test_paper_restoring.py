"""The paper's policy, second half: who is restored, when and where (equation 10, the global queue, home)."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import pytest

from thunderagent_core.scheduling.decisions import Forward, Pause, Reason, Reclaim, Restore
from thunderagent_core.scheduling.events import BackendLost, Outcome, ProgramIdled, ProgramRegistered, TokensGenerated

if TYPE_CHECKING:
    from .driver import Driver


def test_a_program_that_does_not_fit_waits_until_one_ends(shell: Driver) -> None:
    shell.arrive("r1", "p", 7_000)
    assert shell.arrive("r2", "q", 4_000) == []
    assert shell.scheduler.waiting == 1
    assert shell.release("p") == [Reclaim("p", "released")]
    assert shell.wait(10) == []  # released, but its request still holds its memory
    assert shell.end("r1", 7_000, 10) == [Restore("q", "a", Reason.NEW), Forward("q", "r2", "a")]


def test_eq_10_shorter_first(shell: Driver) -> None:
    shell.arrive("r0", "p", 9_500)
    for program, tokens in (("long", 4_000), ("short", 1_000), ("middle", 2_000)):
        shell.arrive(f"r-{program}", program, tokens)
    assert shell.end("r0", outcome=Outcome.UPSTREAM_ERROR) == [
        decision
        for program in ("short", "middle", "long")
        for decision in (Restore(program, "a", Reason.NEW), Forward(program, f"r-{program}", "a"))
    ]


def test_equal_scores_come_first_come_first_served(shell: Driver) -> None:
    shell.arrive("r0", "p", 9_500)
    for program in ("c", "b", "a"):
        shell.arrive(f"r-{program}", program, 2_000)
    told = shell.end("r0", outcome=Outcome.UPSTREAM_ERROR)
    assert [decision.program_id for decision in told if isinstance(decision, Restore)] == ["c", "b", "a"]


def test_a_lower_priority_number_goes_first(shell: Driver) -> None:
    shell.arrive("r0", "p", 9_500)
    shell.on(ProgramRegistered("urgent", priority=-1))
    shell.on(ProgramRegistered("later", priority=1))
    for program, tokens in (("later", 600), ("normal", 1_000), ("urgent", 3_000)):
        shell.arrive(f"r-{program}", program, tokens)
    told = shell.end("r0", outcome=Outcome.UPSTREAM_ERROR)
    assert [decision.program_id for decision in told if isinstance(decision, Restore)] == ["urgent", "normal", "later"]


def test_a_priority_that_changes_while_waiting_counts(shell: Driver) -> None:
    shell.arrive("r0", "p", 9_500)
    shell.arrive("r1", "first", 1_000)
    shell.arrive("r2", "second", 8_000)
    assert shell.on(ProgramRegistered("second", priority=-5)) == []
    told = shell.end("r0", outcome=Outcome.UPSTREAM_ERROR)
    assert [decision.program_id for decision in told if isinstance(decision, Restore)] == ["second", "first"]


def test_decay_makes_room_at_a_moment_that_needs_no_tick(drive) -> None:
    shell = drive(tick_s=60.0)
    shell.backend("a", 10_000)
    shell.turn("p", 4_000)
    shell.turn("q", 4_000)
    shell.wait(1)
    assert shell.arrive("r1", "new", 5_000) == []
    room_at = 5 * math.log2(8_000 / 5_000)
    (when, restore), (_, forward) = shell.wait(30)
    assert when == pytest.approx(room_at, abs=0.002)
    assert when >= room_at
    assert (restore, forward) == (Restore("new", "a", Reason.NEW), Forward("new", "r1", "a"))
    assert shell.program("p").backend is not None, "room came from decay, not from a pause"


def test_the_moment_moves_when_the_load_does(drive) -> None:
    shell = drive(tick_s=60.0)
    shell.backend("a", 10_000)
    shell.turn("p", 4_000)
    shell.turn("q", 4_000)
    shell.wait(1)
    shell.arrive("r1", "new", 5_000)
    shell.arrive("r2", "p", 4_000)
    shell.wait(1)
    shell.end("r2", 4_000, 0)
    (when, restore), _ = shell.wait(30)
    assert restore == Restore("new", "a", Reason.NEW)
    solved = 2 + 5 * math.log2((4_000 + 4_000 * 2 ** (-2 / 5)) / 5_000)
    assert when == pytest.approx(solved, abs=0.002)


def test_without_decay_time_makes_no_room(drive) -> None:
    shell = drive(decay_base=1.0, max_wait_s=10_000.0)
    shell.backend("a", 10_000)
    shell.turn("p", 8_000)
    assert shell.arrive("r1", "new", 5_000) == []
    assert shell.wait(1_000) == []
    assert shell.release("p")[1:] == [Restore("new", "a", Reason.NEW), Forward("new", "r1", "a")]


def test_restoring_stops_at_the_low_watermark(drive) -> None:
    shell = drive(low_watermark=0.5, decay_base=1.0)
    shell.backend("a", 10_000)
    shell.arrive("r1", "p", 4_900)
    shell.arrive("r2", "q", 3_000)
    assert shell.demand("a") == 7_900, "below λ_min before it was restored, below λ_max after"
    assert shell.arrive("r3", "s", 100) == []
    shell.on(TokensGenerated("r1", 200))
    assert shell.end("r2", outcome=Outcome.UPSTREAM_ERROR) == []
    assert shell.demand("a") == 5_101
    assert shell.end("r1", 4_900, 90) == [Restore("s", "a", Reason.NEW), Forward("s", "r3", "a")]


def test_a_restored_program_stays_below_the_high_watermark(drive) -> None:
    shell = drive(high_watermark=0.7, decay_base=1.0)
    shell.backend("a", 10_000)
    shell.arrive("r1", "p", 5_000)
    assert shell.arrive("r2", "q", 2_001) == []
    assert shell.arrive("r3", "s", 2_000) == [Restore("s", "a", Reason.NEW), Forward("s", "r3", "a")]


def test_one_queue_serves_all_backends(drive) -> None:
    shell = drive()
    shell.backend("a", 10_000)
    shell.backend("b", 10_000)
    shell.arrive("r1", "p1", 9_000)
    shell.arrive("r2", "p2", 9_000)
    assert shell.arrive("r3", "q", 3_000) == []
    told = shell.end("r2", outcome=Outcome.UPSTREAM_ERROR)
    assert told == [Restore("q", "b", Reason.NEW), Forward("q", "r3", "b")]


def test_a_new_program_goes_where_most_is_free(drive) -> None:
    shell = drive()
    shell.backend("a", 10_000)
    shell.backend("b", 9_000)
    told = shell.arrive("r1", "p1", 2_000) + shell.arrive("r2", "p2", 2_000)
    assert [decision.backend_id for decision in told if isinstance(decision, Restore)] == ["a", "b"]


def _idle_at_home_while_home_fills(shell: Driver) -> None:
    """Leave ``p`` paused with its cache at ``a``, which has less room than ``b`` but enough."""
    shell.backend("a", 10_000)
    shell.backend("b", 9_000)
    shell.turn("p", 2_000)
    assert shell.on(ProgramIdled("p")) == [Pause("p", "a", Reason.IDLE)]
    shell.arrive("r0", "other", 4_000)


def test_a_paused_program_goes_home_while_its_cache_is_warm(drive) -> None:
    shell = drive(home_window_s=10.0)
    _idle_at_home_while_home_fills(shell)
    shell.wait(9.9)
    assert shell.arrive("r1", "p", 2_100)[0] == Restore("p", "a", Reason.FITS, moved=False)


def test_a_paused_program_moves_once_its_cache_is_cold(drive) -> None:
    shell = drive(home_window_s=10.0)
    _idle_at_home_while_home_fills(shell)
    shell.wait(10.1)
    assert shell.arrive("r1", "p", 2_100)[0] == Restore("p", "b", Reason.FITS, moved=True)
    assert shell.program("p").moves == 1


def test_a_paused_program_moves_when_its_warm_home_is_full(drive) -> None:
    shell = drive()
    _idle_at_home_while_home_fills(shell)
    shell.on(TokensGenerated("r0", 5_000))
    assert shell.arrive("r1", "p", 2_100)[0] == Restore("p", "b", Reason.FITS, moved=True)


def test_a_home_that_was_lost_meanwhile_is_cold(drive) -> None:
    shell = drive()
    _idle_at_home_while_home_fills(shell)
    shell.on(BackendLost("a"))
    shell.sample("a", 10_000)
    assert shell.arrive("r1", "p", 2_100)[0] == Restore("p", "b", Reason.FITS, moved=True)
