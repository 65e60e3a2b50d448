"""How much memory a program is taken to need: estimates, shared prefixes, reserves, and what cannot fit."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import pytest

from thunderagent_core.scheduling.decisions import Forward, Pause, Reason, Refuse, Restore
from thunderagent_core.scheduling.events import BackendDrained, BackendLost, Outcome, RequestArrived, TokensGenerated

if TYPE_CHECKING:
    from .driver import Driver


def test_exact_usage_replaces_the_estimate(shell: Driver) -> None:
    shell.arrive("r1", "p", 1_000)
    shell.on(TokensGenerated("r1", 30))
    assert shell.demand("a") == 1_030
    shell.end("r1", 1_200, 40)
    assert shell.demand("a") == 1_240


def test_without_usage_the_estimate_and_what_was_streamed_stand(shell: Driver) -> None:
    shell.arrive("r1", "p", 1_000)
    shell.on(TokensGenerated("r1", 30))
    shell.end("r1", outcome=Outcome.DISCONNECTED)
    assert shell.program("p").context_tokens == 1_030


def test_usage_without_the_length_of_the_answer_takes_what_was_streamed(shell: Driver) -> None:
    shell.arrive("r1", "p", 1_000)
    shell.on(TokensGenerated("r1", 30))
    shell.end("r1", 1_200)
    assert shell.program("p").context_tokens == 1_230


def test_an_engines_failure_charges_nothing(shell: Driver) -> None:
    shell.turn("p", 2_000)
    shell.arrive("r2", "p", 3_000)
    shell.on(TokensGenerated("r2", 500))
    shell.end("r2", outcome=Outcome.UPSTREAM_ERROR)
    assert shell.program("p").context_tokens == 2_000
    assert shell.program("p").steps == 1


def test_a_turn_is_estimated_from_the_last_one_and_what_was_added(shell: Driver) -> None:
    """What pictures and the template took in the last prompt they take in this one, and no more."""
    shell.on(RequestArrived("r1", "p", prompt_chars=400))
    shell.end("r1", 3_000, 10)
    shell.on(RequestArrived("r2", "p", prompt_chars=800))
    assert shell.program("p").context_tokens == 3_100


def test_the_ratio_measured_on_a_program_serves_its_next_estimate(shell: Driver) -> None:
    shell.arrive("r1", "p", 1_000)  # 4,000 characters
    shell.end("r1", 2_000, 0)
    shell.on(RequestArrived("r2", "p", prompt_chars=6_000))
    assert shell.program("p").context_tokens == 3_000


def test_token_ids_are_counted_not_estimated(shell: Driver) -> None:
    shell.on(RequestArrived("r1", "p", prompt_chars=4_000, prompt_tokens=777))
    assert shell.demand("a") == 777


def test_parallel_requests_add_up_and_leave_the_largest_behind(shell: Driver) -> None:
    shell.arrive("r1", "p", 1_000)
    shell.arrive("r2", "p", 2_000)
    assert shell.demand("a") == 3_000
    shell.end("r2", 2_000, 100)
    assert shell.demand("a") == 1_000
    shell.end("r1", 1_000, 100)
    assert shell.program("p").context_tokens == 2_100


def test_a_context_that_its_agent_cut_down_is_small_again(shell: Driver) -> None:
    shell.turn("p", 6_000)
    shell.turn("p", 2_000)
    assert shell.demand("a") == 2_000


def _first_turn(shell: Driver, program: str, cached: int) -> None:
    shell.arrive(f"first-{program}", program, 3_000)
    shell.end(f"first-{program}", 3_000, 0, cached)


def test_a_prefix_that_programs_share_counts_once(shell: Driver) -> None:
    for program in "pqr":
        _first_turn(shell, program, 2_000)
    assert shell.demand("a") == 3 * 1_000 + 2_000
    assert shell.arrive("r1", "s", 5_000) == [Restore("s", "a", Reason.NEW), Forward("s", "r1", "a")]


def test_the_discount_can_be_switched_off(drive) -> None:
    shell = drive(discount_shared_prefix=False)
    shell.backend("a", 10_000)
    for program in "pqr":
        _first_turn(shell, program, 2_000)
    assert shell.demand("a") == 9_000


def test_a_prompt_cached_whole_is_a_rerun_and_not_shared(shell: Driver) -> None:
    _first_turn(shell, "p", 2_990)
    assert shell.program("p").shared_tokens == 0
    assert shell.demand("a") == 3_000


def test_only_the_first_turn_tells_what_is_shared(shell: Driver) -> None:
    _first_turn(shell, "p", 500)
    shell.arrive("r2", "p", 3_000)
    shell.end("r2", 3_200, 0, 2_900)
    assert shell.program("p").shared_tokens == 500
    assert shell.program("p").cached_tokens == 3_400


def test_a_shared_prefix_that_is_not_there_yet_has_to_fit_as_well(drive) -> None:
    """Its own 2,000 tokens would fit beside the 7,000; with the 2,000 that nobody else holds there they do not."""
    shell = drive(decay_base=1.0)
    shell.backend("a", 10_000)
    _first_turn(shell, "p", 2_000)
    shell.on(BackendLost("a"))
    shell.sample("a", 10_000)
    shell.arrive("r0", "q", 7_000)
    assert shell.arrive("r1", "p", 4_000) == []
    assert shell.end("r0", outcome=Outcome.UPSTREAM_ERROR)[0] == Restore("p", "a", Reason.FITS)
    assert shell.demand("a") == 4_001


def test_a_reserve_is_kept_for_the_next_turn_of_every_active_program(drive) -> None:
    shell = drive(growth_reserve_tokens=1_000, decay_base=1.0)
    shell.backend("a", 10_000)
    shell.turn("p", 4_000)
    assert shell.demand("a") == 5_000
    assert shell.arrive("r1", "q", 4_001) == []
    assert shell.arrive("r2", "s", 4_000)[0] == Restore("s", "a", Reason.NEW)
    assert shell.demand("a") == 10_000


@pytest.mark.parametrize(("tokens", "certain"), [(10_000, False), (20_001, False), (20_002, True)])
def test_an_unmeasured_estimate_refuses_only_beyond_twice_the_pool(shell: Driver, tokens: int, certain: bool) -> None:
    told = shell.arrive("r1", "p", tokens)
    assert (told == [Refuse("p", "r1", Reason.TOO_LARGE)]) is certain
    assert ("p" in shell.scheduler.programs) is not certain


@pytest.mark.parametrize(("chars", "tokens"), [(2, 31), (200, 3_000), (4_000, 400)])
def test_what_was_measured_on_an_odd_prompt_refuses_nobody(shell: Driver, chars: int, tokens: int) -> None:
    """A short question is mostly template, a picture has no characters, a log full of spaces has few tokens."""
    shell.on(RequestArrived("r1", "p", prompt_chars=chars))
    shell.end("r1", tokens, 5)
    for request, program in (("r2", "p"), ("r3", "new")):
        told = shell.on(RequestArrived(request, program, prompt_chars=12_000))
        assert Refuse(program, request, Reason.TOO_LARGE) not in told


@pytest.mark.parametrize(("tokens", "certain"), [(10_000, False), (10_001, True)])
def test_an_exact_length_is_certain(shell: Driver, tokens: int, certain: bool) -> None:
    told = shell.on(RequestArrived("r1", "p", prompt_tokens=tokens))
    assert (told == [Refuse("p", "r1", Reason.TOO_LARGE)]) is certain


def test_what_a_larger_engine_could_take_waits_while_that_is_down(drive) -> None:
    shell = drive()
    shell.backend("small", 10_000)
    shell.backend("large", 50_000)
    shell.on(BackendLost("large"))
    told = shell.on(RequestArrived("r1", "p", prompt_tokens=30_000))
    assert Refuse("p", "r1", Reason.TOO_LARGE) not in told
    shell.on(BackendDrained("large"))
    told = shell.on(RequestArrived("r2", "q", prompt_tokens=30_000))
    assert told == [Refuse("q", "r2", Reason.TOO_LARGE)], "drained and gone, it does not come back"


def test_a_program_over_the_watermark_runs_alone(drive) -> None:
    shell = drive(high_watermark=0.5, tick_s=60.0)
    shell.backend("a", 10_000)
    shell.arrive("r0", "p", 1_000)
    assert shell.arrive("r1", "giant", 8_000) == []
    assert shell.arrive("r2", "q", 1_000) == [Restore("q", "a", Reason.NEW), Forward("q", "r2", "a")]
    assert shell.end("r0", 1_000, 0) == []
    assert shell.end("r2", 2_000, 0) == [
        Restore("giant", "a", Reason.NEW),
        Forward("giant", "r1", "a"),
        Pause("p", "a", Reason.THRASHING),
        Pause("q", "a", Reason.THRASHING),
    ], "once nobody reasons it would disturb"
    shell.end("r1", 8_000, 10)
    assert shell.program("giant").backend is not None


def test_nobody_waits_for_the_moment_that_suits_one_which_must_run_alone(drive) -> None:
    shell = drive(max_wait_s=100.0, decay_base=1.0)
    shell.backend("a", 10_000)
    shell.arrive("r0", "p", 5_000)
    assert shell.arrive("r1", "giant", 12_000) == []
    shell.wait(60)
    assert shell.arrive("r2", "q", 3_000)[0] == Restore("q", "a", Reason.NEW), "past one that has aged"
    assert shell.wait(60)[0] == (100.0, Restore("giant", "a", Reason.WAIT_BOUND))


def test_a_shared_prefix_decays_with_those_who_hold_it(drive) -> None:
    shell = drive(tick_s=3_600.0)
    shell.backend("a", 10_000)
    for program in "pq":
        shell.arrive(f"r-{program}", program, 5_000)
        shell.end(f"r-{program}", 5_000, 0, 4_000)
    assert shell.demand("a") == 4_000 + 2 * 1_000
    shell.wait(5)
    assert shell.demand("a") == pytest.approx(3_000)
    assert shell.arrive("r1", "new", 9_000) == []
    (when, restore), *_ = shell.wait(60)
    assert restore == Restore("new", "a", Reason.NEW)
    assert when == pytest.approx(5 * math.log2(6_000 / 1_000), abs=0.01)


def test_a_shared_prefix_does_not_decay_while_one_of_its_holders_reasons(drive) -> None:
    shell = drive()
    shell.backend("a", 10_000)
    for program in "pq":
        shell.arrive(f"r-{program}", program, 4_000)
        shell.end(f"r-{program}", 4_000, 0, 3_000)
    shell.arrive("r1", "p", 4_000)
    shell.wait(5)
    assert shell.demand("a") == 3_000 + 1_000 + 500


def test_untracked_requests_pass_and_count_only_while_they_run(drive) -> None:
    shell = drive(decay_base=1.0)
    shell.backend("a", 10_000)
    shell.backend("b", 10_000)
    assert shell.arrive("r1", None, 6_000) == [Forward(None, "r1", "a")]
    assert shell.arrive("r2", None, 6_000) == [Forward(None, "r2", "b")]
    assert (shell.demand("a"), shell.scheduler.programs) == (6_000, {})
    shell.on(TokensGenerated("r1", 500))
    assert shell.demand("a") == 6_500
    assert shell.arrive("r3", "p", 4_500) == []
    assert shell.end("r1", 6_000, 500) == [Restore("p", "a", Reason.NEW), Forward("p", "r3", "a")]
    assert shell.demand("a") == 4_500


def test_untracked_requests_are_never_held_and_never_too_large_for_us(drive) -> None:
    shell = drive()
    shell.backend("a", 1_000)
    assert shell.on(RequestArrived("r1", None, prompt_tokens=5_000)) == [Forward(None, "r1", "a")]
    shell.on(BackendLost("a"))
    assert shell.arrive("r2", None) == [Refuse(None, "r2", Reason.NO_BACKEND, 5.0)]
