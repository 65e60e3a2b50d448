"""What the paper is compared with: passthrough, sticky, cap and ttl."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from thunderagent_core.scheduling.decisions import Forward, Pause, Reason, Restore
from thunderagent_core.scheduling.events import (
    BackendLost,
    Outcome,
    ProgramIdled,
    ProgramInterrupted,
    TokensGenerated,
)
from thunderagent_core.scheduling.policies import POLICY_NAMES, make_policy
from thunderagent_core.scheduling.settings import SchedulerSettings

if TYPE_CHECKING:
    from .driver import Driver


@pytest.mark.parametrize("name", POLICY_NAMES)
def test_a_policy_is_called_what_it_was_asked_for_as(name: str) -> None:
    assert make_policy(name, SchedulerSettings()).name == name


def test_an_unknown_policy_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match=r"'papr'; choose one of paper, passthrough, sticky, cap, ttl"):
        make_policy("papr", SchedulerSettings())


def _two(drive, policy: str, **settings: float) -> Driver:
    shell = drive(policy, **settings)
    shell.backend("a", 10_000)
    shell.backend("b", 10_000)
    return shell


def test_passthrough_balances_requests_and_holds_none(drive) -> None:
    shell = _two(drive, "passthrough")
    told = [shell.arrive(f"r{i}", "p", 9_000)[-1] for i in range(4)]
    assert told == [Forward("p", f"r{i}", backend) for i, backend in enumerate("abab")]
    shell.end("r1", 9_000, 10)
    assert shell.arrive("r4", "q", 9_000)[-1] == Forward("q", "r4", "b")
    assert shell.on(TokensGenerated("r0", 50_000)) == []
    assert shell.wait(600) == []


def test_passthrough_holds_nothing_after_a_loss_either(drive) -> None:
    shell = _two(drive, "passthrough")
    shell.arrive("r1", "p", 1_000)
    shell.arrive("r2", "p", 1_000)
    shell.on(BackendLost("a"))
    assert shell.arrive("r3", "p", 1_000) == [Forward("p", "r3", "b")]


def test_sticky_starts_where_the_fewest_programs_are_and_stays(drive) -> None:
    shell = _two(drive, "sticky")
    told = [shell.arrive(f"r-{program}", program, 9_000) for program in "pqr"]
    assert [restore.backend_id for restore, _ in told] == ["a", "b", "a"]
    shell.end("r-p", 9_000, 100)
    shell.release("q")
    assert shell.arrive("r2", "p", 9_500) == [Forward("p", "r2", "a")]
    assert shell.on(TokensGenerated("r2", 90_000)) == []
    assert shell.wait(1_000) == []


def test_sticky_comes_back_to_its_pin_however_long_it_was_idle(drive) -> None:
    shell = _two(drive, "sticky", home_window_s=1.0)
    shell.turn("p", 5_000)
    shell.on(ProgramIdled("p"))
    shell.turn("q", 5_000)
    shell.turn("r", 5_000)
    shell.wait(500)
    assert shell.arrive("r1", "p", 5_000)[0] == Restore("p", "a", Reason.FITS)


def test_sticky_moves_only_when_its_pin_is_gone(drive) -> None:
    shell = _two(drive, "sticky")
    shell.turn("p", 5_000)
    assert shell.on(BackendLost("a")) == [Pause("p", "a", Reason.BACKEND_LOST)]
    assert shell.arrive("r1", "p", 5_000)[0] == Restore("p", "b", Reason.FITS, moved=True)


def test_cap_admits_so_many_programs_first_come_first_served(drive) -> None:
    shell = drive("cap", cap_programs=2)
    shell.backend("a", 10_000)
    assert shell.arrive("r1", "p1", 9_000) == [Restore("p1", "a", Reason.NEW), Forward("p1", "r1", "a")]
    assert shell.arrive("r2", "p2", 9_000) == [Restore("p2", "a", Reason.NEW), Forward("p2", "r2", "a")]
    assert shell.arrive("r3", "long", 5_000) == []
    shell.wait(1)
    assert shell.arrive("r4", "short", 10) == []
    assert shell.end("r1", 9_000, 10) == [], "acting, it keeps its place until its end"
    assert shell.release("p1")[1:] == [Restore("long", "a", Reason.NEW), Forward("long", "r3", "a")]
    assert shell.on(ProgramIdled("long")) == [], "it is in the middle of a request"
    shell.end("r2", 9_000, 10)
    assert shell.on(ProgramIdled("p2")) == [
        Pause("p2", "a", Reason.IDLE),
        Restore("short", "a", Reason.NEW),
        Forward("short", "r4", "a"),
    ]


def test_cap_counts_for_each_backend(drive) -> None:
    shell = _two(drive, "cap", cap_programs=1)
    told = [shell.arrive(f"r-{program}", program) for program in "pqr"]
    assert [len(decisions) for decisions in told] == [2, 2, 0]
    assert {told[0][0].backend_id, told[1][0].backend_id} == {"a", "b"}


def test_cap_prefers_a_warm_home(drive) -> None:
    shell = _two(drive, "cap", cap_programs=2)
    shell.turn("p", 100)
    shell.on(ProgramInterrupted("p"))
    shell.turn("q", 100)
    shell.wait(5)
    assert shell.arrive("r1", "p")[0] == Restore("p", "a", Reason.FITS)


def test_ttl_holds_an_acting_program_for_a_fixed_time(drive) -> None:
    shell = drive("ttl", ttl_s=10.0)
    shell.backend("a", 10_000)
    shell.turn("p", 6_000)
    assert shell.arrive("r1", "q", 6_000) == []
    assert shell.wait(9.9) == []
    told = shell.wait(0.2)
    assert told == [
        (10.0, Pause("p", "a", Reason.TTL)),
        (10.0, Restore("q", "a", Reason.NEW)),
        (10.0, Forward("q", "r1", "a")),
    ]


def test_ttl_starts_again_with_each_turn(drive) -> None:
    shell = drive("ttl", ttl_s=10.0)
    shell.backend("a", 10_000)
    shell.turn("p", 6_000)
    shell.wait(9)
    assert shell.arrive("r1", "p", 6_000) == [Forward("p", "r1", "a")]
    assert shell.wait(30) == [], "it reasons"
    shell.end("r1", 6_000, 0)
    assert shell.wait(9.9) == []
    assert shell.wait(0.2) == [(49.0, Pause("p", "a", Reason.TTL))]


def test_ttl_never_pauses_for_memory_and_runs_what_is_too_large_alone(drive) -> None:
    shell = drive("ttl", ttl_s=5.0)
    shell.backend("a", 10_000)
    shell.turn("p", 6_000)
    assert shell.arrive("r1", "giant", 12_000) == [], "an estimate may be too high by a quarter"
    told = [decision for _, decision in shell.wait(6)]
    assert told == [Pause("p", "a", Reason.TTL), Restore("giant", "a", Reason.NEW), Forward("giant", "r1", "a")]
    shell.end("r1", outcome=Outcome.UPSTREAM_ERROR)


@pytest.mark.parametrize("policy", ["cap", "ttl", "paper"])
def test_waiting_is_bounded_whatever_the_policy(drive, policy: str) -> None:
    shell = drive(policy, cap_programs=1, max_wait_s=20.0, ttl_s=10_000.0, decay_base=1.0)
    shell.backend("a", 10_000)
    shell.arrive("r1", "p", 9_000)
    assert shell.arrive("r2", "q", 9_000) == []
    told = [(when, decision) for when, decision in shell.wait(60) if isinstance(decision, Forward | Restore)]
    assert told == [(20.0, Restore("q", "a", Reason.WAIT_BOUND)), (20.0, Forward("q", "r2", "a"))]
