"""Programs whose client forgot them, waits for a person, or has gone quiet."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from thunderagent_core.scheduling.decisions import Forward, Pause, Prepare, Reason, Reclaim, Refuse, Restore
from thunderagent_core.scheduling.events import (
    Outcome,
    ProgramFound,
    ProgramIdled,
    ProgramInterrupted,
    ProgramRegistered,
    ProgramResumed,
    ToolEnded,
    ToolStarted,
)

if TYPE_CHECKING:
    from .driver import Driver

DAY_S = 86_400.0


def test_a_program_that_is_never_heard_of_again_ends_with_its_lease(drive) -> None:
    shell = drive(idle_lease_s=600.0)
    shell.backend("a", 10_000)
    shell.wait(5)
    shell.turn("p", 1_000)
    assert shell.wait(599) == []
    assert shell.wait(2) == [(605.0, Reclaim("p", "lease ran out"))]
    assert shell.scheduler.programs == {}


def test_each_sign_of_life_renews_the_lease(drive) -> None:
    shell = drive(idle_lease_s=600.0)
    shell.backend("a", 10_000)
    shell.turn("p", 1_000)
    for event in (
        ToolStarted("p", "bash"),
        ToolEnded("p", "bash"),
        ProgramIdled("p"),
        ProgramResumed("p"),
        ProgramRegistered("p"),
    ):
        assert shell.wait(599) == []
        shell.on(event)
    assert shell.wait(599) == []
    assert shell.wait(2) == [(6 * 599.0 + 1, Reclaim("p", "lease ran out"))]


def test_a_request_longer_than_the_lease_is_not_cut_off(drive) -> None:
    shell = drive(idle_lease_s=600.0)
    shell.backend("a", 10_000)
    shell.arrive("r1", "p", 1_000)
    assert shell.wait(2_000) == []
    shell.end("r1", 1_000, 10)
    assert shell.wait(599) == []
    assert shell.wait(2) == [(2_600.0, Reclaim("p", "lease ran out"))]


def test_a_registered_program_without_a_request_has_a_lease_too(drive) -> None:
    shell = drive(idle_lease_s=600.0)
    shell.on(ProgramRegistered("p"))
    assert shell.wait(700) == [(600.0, Reclaim("p", "lease ran out"))]


def test_an_interrupted_program_gives_up_its_memory_and_gets_the_long_lease(drive) -> None:
    shell = drive(tick_s=600.0)
    shell.backend("a", 10_000)
    shell.turn("p", 6_000)
    assert shell.on(ProgramInterrupted("p")) == [Pause("p", "a", Reason.INTERRUPTED)]
    assert shell.demand("a") == 0
    assert shell.wait(DAY_S - 1) == []
    assert shell.wait(2) == [(DAY_S, Reclaim("p", "lease ran out"))]


def test_an_interrupted_program_comes_back_with_a_request(shell: Driver) -> None:
    shell.turn("p", 6_000)
    shell.on(ProgramInterrupted("p"))
    shell.wait(3_600)
    assert shell.arrive("r1", "p", 6_000) == [Restore("p", "a", Reason.FITS), Forward("p", "r1", "a")]


def test_the_short_lease_runs_again_once_an_interrupted_program_goes_on(shell: Driver) -> None:
    shell.turn("p", 6_000)
    shell.on(ProgramInterrupted("p"))
    shell.wait(100)
    shell.on(ProgramResumed("p"))
    assert shell.wait(2_000) == [(1_900.0, Reclaim("p", "lease ran out"))]


def test_a_request_is_as_good_as_a_resumption(shell: Driver) -> None:
    shell.turn("p", 6_000)
    shell.on(ProgramInterrupted("p"))
    shell.wait(100)
    shell.turn("p", 6_000)
    assert shell.wait(2_000) == [(1_900.0, Reclaim("p", "lease ran out"))]


def test_an_idle_program_gives_up_its_memory_and_keeps_the_idle_lease(shell: Driver) -> None:
    shell.turn("p", 6_000)
    assert shell.on(ProgramIdled("p")) == [Pause("p", "a", Reason.IDLE)]
    assert shell.on(ProgramIdled("p")) == []
    assert shell.wait(1_801) == [(1_800.0, Reclaim("p", "lease ran out"))]


def test_memory_given_up_serves_the_queue_at_once(shell: Driver) -> None:
    shell.turn("p", 9_000)
    shell.arrive("r1", "q", 5_000)
    assert shell.on(ProgramIdled("p")) == [
        Pause("p", "a", Reason.IDLE),
        Restore("q", "a", Reason.NEW),
        Forward("q", "r1", "a"),
    ]


def test_words_about_a_program_in_the_middle_of_a_request_do_not_pause_it(shell: Driver) -> None:
    shell.arrive("r1", "p", 6_000)
    assert shell.on(ProgramIdled("p")) == []
    assert shell.on(ProgramInterrupted("p")) == []
    assert shell.marked("a") == []
    shell.end("r1", outcome=Outcome.DISCONNECTED)


@pytest.mark.parametrize(("word", "reason"), [(ProgramIdled, Reason.IDLE), (ProgramInterrupted, Reason.INTERRUPTED)])
def test_words_that_come_a_moment_before_the_requests_end_count_at_its_end(shell: Driver, word, reason) -> None:
    """A client sees the end of its stream before the server has closed the request."""
    shell.arrive("r1", "p", 6_000)
    shell.on(word("p"))
    assert shell.end("r1", 6_000, 10) == [Pause("p", "a", reason)]


def test_a_new_request_takes_such_words_back(shell: Driver) -> None:
    shell.arrive("r1", "p", 2_000)
    shell.on(ProgramIdled("p"))
    shell.arrive("r2", "p", 2_000)
    assert shell.end("r1", 2_000, 10) == []
    assert shell.end("r2", 2_000, 10) == []


@pytest.mark.parametrize("word", [ProgramIdled("p"), ToolStarted("p", "bash")])
def test_words_that_a_program_goes_on_end_the_long_lease(shell: Driver, word) -> None:
    shell.turn("p", 1_000)
    shell.on(ProgramInterrupted("p"))
    shell.wait(10)
    shell.on(word)
    assert shell.wait(2_000) == [(1_810.0, Reclaim("p", Reason.LEASE))]


def test_words_about_unknown_programs_bring_none_into_being(shell: Driver) -> None:
    for kind in (ProgramIdled, ProgramInterrupted, ProgramResumed):
        assert shell.on(kind("ghost")) == []
    assert shell.on(ToolStarted("ghost", "bash")) == []
    assert shell.on(ToolEnded("ghost", "bash")) == []
    assert shell.release("ghost") == []
    assert shell.scheduler.programs == {}


def test_the_tool_that_runs_is_known_by_name(shell: Driver) -> None:
    shell.turn("p", 1_000)
    shell.on(ToolStarted("p", "bash"))
    assert shell.program("p").tool == "bash"
    shell.on(ToolEnded("p", "another"))
    assert shell.program("p").tool == "bash"
    shell.on(ToolEnded("p", "bash"))
    assert shell.program("p").tool is None
    shell.on(ToolStarted("p", "bash"))
    shell.arrive("r1", "p", 1_000)
    assert shell.program("p").tool is None, "a request means that the tool is over"


def test_with_nothing_to_watch_no_timer_is_armed(drive) -> None:
    shell = drive(idle_lease_s=600.0)
    assert shell.scheduler.next_deadline() is None
    shell.backend("a", 10_000)
    assert shell.scheduler.next_deadline() is None
    shell.turn("p", 1_000)
    assert shell.scheduler.next_deadline() is not None
    shell.release("p")
    assert shell.scheduler.next_deadline() is None


def test_the_end_of_a_program_ends_all_that_it_started(shell: Driver) -> None:
    for program, parent in (("child", "parent"), ("grandchild", "child"), ("other", "elsewhere")):
        shell.on(ProgramRegistered(program, parent))
    shell.arrive("r1", "parent", 6_000)
    shell.arrive("r2", "grandchild", 6_000)
    told = shell.release("parent")
    assert Refuse("grandchild", "r2", Reason.RELEASED) in told
    reasons = {decision.program_id: decision.reason for decision in told if isinstance(decision, Reclaim)}
    assert reasons == {"parent": "released", "child": Reason.PARENT, "grandchild": Reason.PARENT}
    assert set(shell.scheduler.programs) == {"other"}


def test_a_family_that_goes_round_in_a_circle_ends_once(shell: Driver) -> None:
    shell.on(ProgramRegistered("p", "q"))
    shell.on(ProgramRegistered("q", "p"))
    assert sorted(decision.program_id for decision in shell.release("p")) == ["p", "q"]


def test_a_program_lives_as_long_as_those_it_started(drive) -> None:
    """While a sub-agent works, the agent that waits for it sends nothing."""
    shell = drive(idle_lease_s=600.0)
    shell.backend("a", 10_000)
    shell.turn("parent", 100)
    shell.on(ProgramRegistered("child", "parent"))
    for _ in range(4):
        shell.wait(500)
        shell.turn("child", 100)
    assert "parent" in shell.scheduler.programs
    shell.release("child")
    told = shell.wait(1_200)
    assert [decision for _, decision in told] == [Reclaim("parent", Reason.LEASE)]


def test_a_program_of_an_earlier_server_lives_on_and_its_lease_runs(shell: Driver) -> None:
    assert shell.on(ProgramFound("p", "parent")) == []
    assert shell.program("p").parent_id == "parent"
    assert shell.arrive("r1", "p", 100)[0] == Prepare("p", Reason.RESTORED)
    shell.on(ProgramFound("p"))
    assert shell.program("p").parent_id == "parent", "what is known stays"
    shell.end("r1", 100, 1)
    assert shell.wait(1_801) == [(1_800.0, Reclaim("p", Reason.LEASE))]
