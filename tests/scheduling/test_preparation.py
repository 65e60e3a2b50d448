"""When tool environments are made: near the head of the queue, at the restore at the latest, and never for nobody."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from thunderagent_core.scheduling.decisions import Forward, Pause, Prepare, Reason, Reclaim, Restore
from thunderagent_core.scheduling.events import (
    EnvironmentFailed,
    EnvironmentReady,
    EnvironmentsWanted,
    EnvironmentUsed,
    Outcome,
    ProgramIdled,
    ProgramRegistered,
)
from thunderagent_core.scheduling.program import Preparation

if TYPE_CHECKING:
    from .driver import Driver


def _prepared(decisions: list[object]) -> list[str]:
    return [decision.program_id for decision in decisions if isinstance(decision, Prepare)]


def _full(drive, **settings: float) -> Driver:
    """Fill the pool, so that whoever comes now waits."""
    shell = drive(decay_base=1.0, **settings)
    shell.backend("a", 10_000)
    shell.arrive("r0", "first", 9_900)
    return shell


def test_a_program_that_need_not_wait_is_prepared_before_it_is_restored(shell: Driver) -> None:
    assert shell.arrive("r1", "p", 1_000, environments=True) == [
        Prepare("p", Reason.RESTORED),
        Restore("p", "a", Reason.NEW),
        Forward("p", "r1", "a"),
    ]


def test_those_who_wait_are_prepared_in_the_order_of_the_queue(drive) -> None:
    shell = _full(drive, prepare_ahead=2)
    told = shell.arrive("r1", "long", 4_000, environments=True)
    told += shell.arrive("r2", "middle", 3_000, environments=True)
    assert told == [Prepare("long", Reason.NEAR), Prepare("middle", Reason.NEAR)]
    assert shell.arrive("r3", "short", 1_000, environments=True) == [], "two are ahead already"
    assert shell.arrive("r4", "shorter", 500, environments=True) == []
    told = shell.end("r0", 7_500, 0)
    assert _prepared(told) == ["shorter", "short"], "restored at once, so prepared at once"


def test_one_that_is_restored_or_gone_makes_room_for_the_next(drive) -> None:
    shell = _full(drive, prepare_ahead=1)
    assert _prepared(shell.arrive("r1", "p", 3_000, environments=True)) == ["p"]
    assert shell.arrive("r2", "q", 4_000, environments=True) == []
    assert _prepared(shell.end("r1", outcome=Outcome.DISCONNECTED)) == ["q"]
    shell.arrive("r3", "s", 9_000, environments=True)
    assert _prepared(shell.release("q")) == ["s"]


def test_programs_without_environments_take_no_place_in_the_window(drive) -> None:
    shell = _full(drive, prepare_ahead=1)
    for number in range(5):
        assert shell.arrive(f"r{number + 1}", f"plain-{number}", 1_000) == []
    assert _prepared(shell.arrive("r9", "p", 5_000, environments=True)) == ["p"]


def test_without_a_window_environments_are_made_at_the_restore(drive) -> None:
    shell = _full(drive, prepare_ahead=0)
    assert shell.arrive("r1", "p", 3_000, environments=True) == []
    assert shell.end("r0", outcome=Outcome.UPSTREAM_ERROR)[:2] == [
        Prepare("p", Reason.RESTORED),
        Restore("p", "a", Reason.NEW),
    ]


def test_the_window_shrinks_to_what_preparations_take(drive) -> None:
    """Environments that take 1 s need no start of many seconds where a program is restored every 10 s."""
    shell = _full(drive, prepare_ahead=8)
    for number in range(3):
        assert _prepared(shell.arrive(f"w{number}", f"w{number}", 9_900, environments=True)) == [f"w{number}"]
        shell.wait(1)
        shell.on(EnvironmentReady(f"w{number}"))
    before = "r0"
    for number in range(3):
        shell.wait(10)
        shell.release("first" if number == 0 else f"w{number - 1}")
        shell.end(before, outcome=Outcome.UPSTREAM_ERROR)
        before = f"w{number}"
        assert before in shell.in_flight
    assert _prepared(shell.arrive("r1", "p", 3_000, environments=True)) == ["p"]
    assert _prepared(shell.arrive("r2", "q", 3_000, environments=True)) == [], "one is enough"


def test_a_registered_program_is_prepared_once_it_asks_for_something(drive) -> None:
    shell = _full(drive)
    assert shell.on(ProgramRegistered("p", environments=True)) == []
    assert shell.wait(60) == []
    assert _prepared(shell.arrive("r1", "p", 3_000)) == ["p"]


def test_environments_of_an_active_program_are_made_at_once(shell: Driver) -> None:
    shell.turn("p", 1_000)
    assert shell.on(EnvironmentsWanted("p")) == [Prepare("p", Reason.ACTIVE)]


def test_an_environment_that_was_dropped_is_made_again_when_its_program_comes_back(drive) -> None:
    shell = drive(decay_base=1.0)
    shell.backend("a", 10_000)
    shell.arrive("r1", "p", 2_000, environments=True)
    shell.on(EnvironmentReady("p"))
    shell.end("r1", 2_000, 10)
    assert shell.on(ProgramIdled("p")) == [Pause("p", "a", Reason.IDLE)]
    assert shell.on(EnvironmentsWanted("p")) == []
    assert shell.arrive("r2", "p", 2_100)[0] == Prepare("p", Reason.RESTORED)


@pytest.mark.parametrize("word", [EnvironmentReady, EnvironmentFailed])
def test_nothing_is_ordered_twice(drive, word) -> None:
    shell = _full(drive)
    shell.arrive("r1", "p", 3_000, environments=True)
    shell.on(word("p"))
    assert shell.program("p").preparation is (Preparation.READY if word is EnvironmentReady else Preparation.FAILED)
    told = shell.end("r0", outcome=Outcome.UPSTREAM_ERROR)
    assert _prepared(told) == []
    assert told[0] == Restore("p", "a", Reason.NEW), "a program whose environment failed runs on"


def test_words_about_environments_of_unknown_programs_mean_nothing(shell: Driver) -> None:
    for kind in (EnvironmentsWanted, EnvironmentReady, EnvironmentFailed, EnvironmentUsed):
        assert shell.on(kind("ghost")) == []
    assert shell.scheduler.programs == {}


def test_work_in_an_environment_keeps_the_program_alive(drive) -> None:
    shell = drive(idle_lease_s=600.0)
    shell.backend("a", 10_000)
    shell.turn("p", 1_000)
    for _ in range(3):
        shell.wait(500)
        shell.on(EnvironmentUsed("p"))
    assert shell.wait(700) == [(2_100.0, Reclaim("p", Reason.LEASE))]
