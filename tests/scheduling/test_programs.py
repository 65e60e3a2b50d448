"""A program's life: registered, running, released in whatever state it is; and its table of transitions."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import pytest

from thunderagent_core.scheduling.decisions import Forward, Pause, Reason, Reclaim, Refuse, Restore
from thunderagent_core.scheduling.events import Outcome, ProgramRegistered, TokensGenerated
from thunderagent_core.scheduling.program import (
    HISTORY_LENGTH,
    TRANSITIONS,
    IllegalTransitionError,
    Phase,
    Program,
    Status,
)

if TYPE_CHECKING:
    from .driver import Driver


def test_registering_places_nothing_and_takes_no_memory(shell: Driver) -> None:
    assert shell.on(ProgramRegistered("p", parent_id="root", group="rollout-7", priority=3)) == []
    program = shell.program("p")
    assert (program.parent_id, program.group, program.priority) == ("root", "rollout-7", 3)
    assert (program.status, program.phase, program.backend) == (Status.PAUSED, Phase.ACTING, None)
    assert (shell.demand("a"), shell.scheduler.waiting) == (0, 0)
    assert shell.release("p") == [Reclaim("p", "released")]


def test_registering_again_keeps_what_the_program_has_done(shell: Driver) -> None:
    shell.turn("p", 1_000)
    shell.on(ProgramRegistered("p", priority=3))
    assert (shell.program("p").steps, shell.program("p").priority) == (1, 3)
    assert shell.demand("a") == 1_000


def test_releasing_an_acting_program_frees_its_memory(shell: Driver) -> None:
    shell.turn("p", 9_000)
    assert shell.arrive("r1", "q", 9_000) == []
    assert shell.release("p") == [Reclaim("p", "released"), Restore("q", "a", Reason.NEW), Forward("q", "r1", "a")]


def test_releasing_twice_is_releasing_once(shell: Driver) -> None:
    shell.turn("p", 1_000)
    assert shell.release("p") == [Reclaim("p", "released")]
    assert shell.release("p") == []


def test_released_while_in_flight_its_request_runs_on_as_nobodys(shell: Driver) -> None:
    shell.arrive("r1", "p", 6_000)
    assert shell.release("p") == [Reclaim("p", "released")]
    assert shell.demand("a") == 6_000
    assert shell.arrive("r2", "q", 6_000) == []
    shell.on(TokensGenerated("r1", 10))
    assert shell.demand("a") == 6_010
    assert shell.end("r1", 6_000, 10) == [Restore("q", "a", Reason.NEW), Forward("q", "r2", "a")]


def test_released_while_queued_its_requests_are_refused_for_good(shell: Driver) -> None:
    shell.arrive("r0", "p", 9_000)
    shell.arrive("r1", "q", 4_000)
    shell.arrive("r2", "q", 4_000)
    assert shell.release("q") == [
        Refuse("q", "r1", Reason.RELEASED, None),
        Refuse("q", "r2", Reason.RELEASED, None),
        Reclaim("q", "released"),
    ]
    assert shell.scheduler.waiting == 0
    assert shell.wait(400) == []


def test_released_while_marked_with_one_request_running_and_one_held(shell: Driver) -> None:
    shell.arrive("r0", "p", 8_000)
    shell.arrive("r1", "q", 1_500)
    shell.on(TokensGenerated("r0", 600))
    assert shell.marked("a") == ["q"]
    shell.arrive("r2", "q", 1_500)
    assert shell.release("q") == [Refuse("q", "r2", Reason.RELEASED, None), Reclaim("q", "released")]
    assert shell.marked("a") == []
    assert shell.demand("a") == 8_600 + 1_500
    shell.end("r1", 1_500, 10)


def test_an_id_may_be_used_again_after_its_end(shell: Driver) -> None:
    shell.arrive("r1", "p", 4_000)
    shell.release("p")
    assert shell.arrive("r2", "p", 2_000) == [Restore("p", "a", Reason.NEW), Forward("p", "r2", "a")]
    assert shell.demand("a") == 6_000
    shell.end("r1", 4_000, 50)
    assert shell.program("p").phase is Phase.REASONING
    assert shell.program("p").steps == 0


def test_a_program_is_acting_only_when_nothing_of_it_is_open(shell: Driver) -> None:
    for request in ("r1", "r2", "r3"):
        shell.arrive(request, "p", 100)
        shell.now += 1
    shell.end("r2", outcome=Outcome.DISCONNECTED)
    shell.end("r1", 100, 5)
    assert shell.program("p").phase is Phase.REASONING
    shell.end("r3", outcome=Outcome.UPSTREAM_ERROR)
    assert shell.program("p").phase is Phase.ACTING
    assert shell.program("p").phase_since == 3.0


def test_what_happened_to_a_program_is_remembered_within_bounds(drive) -> None:
    shell = drive("ttl", ttl_s=1.0)
    shell.backend("a", 10_000)
    for _ in range(HISTORY_LENGTH):
        shell.turn("p", 100)
        shell.wait(2)
    history = shell.program("p").history
    assert len(history) == HISTORY_LENGTH
    assert history[-2:] == ((30.0, Status.ACTIVE, Reason.FITS), (31.0, Status.PAUSED, Reason.TTL))
    assert shell.program("p").pauses == HISTORY_LENGTH


def test_a_pause_and_a_return_are_told_with_their_reasons(shell: Driver) -> None:
    shell.arrive("r1", "p", 6_000)
    shell.arrive("r2", "q", 3_000)
    shell.on(TokensGenerated("r1", 1_001))
    assert shell.end("r2", 3_000, 0) == [Pause("q", "a", Reason.THRASHING)]
    assert shell.arrive("r3", "q", 2_900) == [Restore("q", "a", Reason.FITS), Forward("q", "r3", "a")]
    assert [reason for _, _, reason in shell.program("q").history] == [Reason.NEW, Reason.THRASHING, Reason.FITS]


@pytest.mark.parametrize(("old", "new"), list(itertools.product(Status, Status)))
def test_the_table_alone_says_which_changes_of_status_are_legal(old: Status, new: Status) -> None:
    program = Program("p", status=old, history=((1.0, old, "how it came here"),))
    if new in TRANSITIONS[old]:
        program.change(new, 2.0, "test")
        assert (program.status, program.history[-1]) == (new, (2.0, new, "test"))
    else:
        with pytest.raises(IllegalTransitionError, match=r"how it came here"):
            program.change(new, 2.0, "test")
        assert program.status is old


def test_nothing_leads_out_of_the_end() -> None:
    assert TRANSITIONS[Status.TERMINATED] == frozenset()
    assert set(TRANSITIONS) == set(Status)
