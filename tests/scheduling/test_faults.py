"""What others got wrong (the numbered list of the specification), as far as the pure core decides it.

Each test is named after its fault. Where a fault has a server side as well, the name ends in ``_core``.
"""

from __future__ import annotations

import math
from collections import Counter
from typing import TYPE_CHECKING

import pytest

from thunderagent_core.scheduling.decisions import Forward, Pause, Reason, Reclaim, Refuse, Restore
from thunderagent_core.scheduling.events import (
    BackendAdded,
    BackendLost,
    BackendSampled,
    Outcome,
    ProgramIdled,
    ProgramRegistered,
    ProgramReleased,
    Tick,
    TokensGenerated,
)
from thunderagent_core.scheduling.program import Phase, Status

if TYPE_CHECKING:
    from .driver import Driver


def test_fault_01_over_pausing(shell: Driver) -> None:
    """1k, 2k, 3k and 5k on a pool of 10k: the smallest is enough, and looking again marks nobody else."""
    for program, tokens in (("1k", 1_000), ("2k", 2_000), ("3k", 3_000), ("5k", 4_000)):
        shell.arrive(f"r-{program}", program, tokens)
    shell.on(TokensGenerated("r-5k", 1_000))
    assert shell.marked("a") == ["1k"]
    for _ in range(20):
        shell.on(TokensGenerated("r-5k", 0))
        shell.wait(1)
    assert shell.marked("a") == ["1k"]
    shell.on(TokensGenerated("r-3k", 1))
    assert shell.marked("a") == ["1k", "2k"], "one token more than fits takes one program more, not three"


def test_fault_02_drifting_counters(shell: Driver) -> None:
    """A program that grows between its start and its end leaves no residue; totals are exact after any history."""
    for turn in range(200):
        shell.arrive(f"r{turn}", "p", 1_000 + turn)
        shell.on(TokensGenerated(f"r{turn}", 7 * turn))
        shell.now += 0.37
        shell.end(f"r{turn}", 900 + turn, 3)
        shell.scheduler.check()
    assert shell.demand("a") == 900 + 199 + 3
    shell.release("p")
    assert (shell.demand("a"), shell.scheduler.backends["a"].leaving) == (0.0, 0)


@pytest.mark.parametrize("outcome", list(Outcome))
@pytest.mark.parametrize("held", [False, True])
def test_fault_03_phantom_programs_core(shell: Driver, outcome: Outcome, held: bool) -> None:
    """However a request ends, and wherever it was, its program reasons no longer; a second report changes nothing."""
    if held:
        shell.arrive("r0", "other", 9_500)
    shell.arrive("r1", "p", 2_000)
    assert (("r1" in shell.held), shell.program("p").phase) == (held, Phase.REASONING)
    shell.end("r1", outcome=outcome)
    assert shell.program("p").phase is Phase.ACTING
    assert (shell.scheduler.waiting, shell.scheduler.open_requests) == (0, int(held))
    before = shell.program("p").steps
    shell.end("r1", outcome=outcome)
    assert shell.program("p").steps == before
    assert shell.wait(1_801)[-1][1] == Reclaim("p", Reason.LEASE)


def test_fault_04_parallel_turns(shell: Driver) -> None:
    """Phase comes from what is open: one sub-agent's end does not make the program an acting one to be paused."""
    shell.arrive("r1", "p", 3_000)
    shell.arrive("r2", "p", 3_000)
    shell.arrive("r3", "q", 2_000)
    shell.end("r1", 3_000, 10)
    assert shell.program("p").phase is Phase.REASONING
    assert shell.demand("a") == 5_000
    shell.on(TokensGenerated("r3", 5_001))
    assert shell.marked("a") == ["p"], "marked, not paused: r2 is in flight"
    assert shell.program("p").status is Status.ACTIVE
    assert shell.end("r2", 3_000, 10) == [Pause("p", "a", Reason.THRASHING)]


def test_fault_05_race_between_pause_and_request_core(drive) -> None:
    """A request in the very instant of its program's pause waits, or goes on with its program: nothing in between."""
    shell = drive(decay_base=1.0)
    shell.backend("a", 10_000)
    shell.backend("b", 10_000)
    shell.turn("p", 6_000)
    shell.turn("q", 9_900)
    shell.arrive("r1", "p", 6_000)
    shell.arrive("r2", "s", 3_900)
    assert shell.on(TokensGenerated("r1", 200)) == []
    assert shell.marked("a") == ["s"]
    assert shell.arrive("r3", "s", 3_900) == []
    assert shell.end("r2", 3_900, 0) == [Pause("s", "a", Reason.THRASHING)]
    assert shell.program("s").backend is None
    assert "r3" in shell.held
    assert shell.release("q") == [
        Reclaim("q", "released"),
        Restore("s", "b", Reason.FITS, moved=True),
        Forward("s", "r3", "b"),
    ]


@pytest.mark.parametrize("event", ["end", "release", "disconnect", "growth", "pool", "new engine", "idle", "wish"])
def test_fault_06_admission_only_on_the_tick(drive, event: str) -> None:
    """Whatever makes room admits the next in the same call; the tick is an hour away."""
    shell = drive(decay_base=1.0, tick_s=3_600.0)
    shell.backend("a", 10_000)
    shell.wait(0)
    shell.turn("old", 2_000)
    shell.arrive("r0", "p", 7_000)
    assert shell.arrive("r1", "q", 3_000) == []
    make_room = {
        "end": lambda: shell.end("r0", 4_000, 10),
        "release": lambda: shell.release("old"),
        "disconnect": lambda: shell.end("r0", 1_000, outcome=Outcome.DISCONNECTED),
        "growth": lambda: shell.on(TokensGenerated("r0", 1_001)),  # pauses "old", which is not enough yet
        "pool": lambda: shell.sample("a", 12_000),
        "new engine": lambda: shell.backend("b", 5_000),
        "idle": lambda: shell.on(ProgramIdled("old")),
        "wish": lambda: shell.on(ProgramIdled("p")) + shell.end("r0", 7_000, 10),
    }
    told = make_room[event]()
    if event == "growth":
        assert told == [Pause("old", "a", Reason.THRASHING)]
        told = shell.end("r0", 5_000, 0)
    assert [type(decision) for decision in told[-2:]] == [Restore, Forward]
    assert told[-1].request_id == "r1"


def test_fault_06_time_alone_admits_without_a_tick(drive) -> None:
    shell = drive(tick_s=3_600.0)
    shell.backend("a", 10_000)
    shell.turn("p", 9_000)
    shell.wait(0)
    assert shell.arrive("r1", "q", 5_000) == []
    (when, _), _ = shell.wait(60)
    assert when == pytest.approx(5 * math.log2(9_000 / 5_000), abs=0.002)


def test_fault_07_starvation(drive) -> None:
    """Under an endless stream of small programs a large one is served within the bound, before its client gives up."""
    shell = drive(max_wait_s=120.0)
    shell.backend("a", 10_000)
    for number in range(4):
        shell.arrive(f"small-{number}", f"s{number}", 2_400)
    shell.arrive("large", "large", 9_000)
    number = 4
    while "large" in shell.held:
        assert shell.now < 120.5, "starved"
        oldest = next(request for request in shell.in_flight if request.startswith("small"))
        shell.release(shell.in_flight[oldest][0])
        shell.end(oldest, 2_400, 10)
        shell.arrive(f"small-{number}", f"s{number}", 2_400)
        number += 1
        shell.wait(1)
    assert 60 <= shell.now <= 121, "overtaken until half of the bound, and then no more"
    assert number > 60
    for request in list(shell.in_flight):
        shell.end(request, outcome=Outcome.DISCONNECTED)


def test_fault_07_starvation_across_models(drive) -> None:
    """Age counts over all models that an engine serves: a stream of requests for one does not starve another."""
    shell = drive(max_wait_s=120.0, decay_base=1.0)
    shell.backend("a", 10_000, "base", "lora")
    for number in range(4):
        shell.arrive(f"base-{number}", f"b{number}", 2_500, model="base")
    shell.arrive("lora", "lora", 2_500, model="lora")
    number = 4
    while "lora" in shell.held:
        oldest = next(request for request in shell.in_flight if request.startswith("base"))
        shell.arrive(f"base-{number}", f"b{number}", 2_400, model="base")
        shell.release(shell.in_flight[oldest][0])
        shell.end(oldest, 2_400, 10)
        number += 1
        shell.wait(1)
        assert shell.now <= 62, "overtaken although it had aged"
    for request in list(shell.in_flight):
        shell.end(request, outcome=Outcome.DISCONNECTED)


def test_fault_07_a_clients_patience_lies_above_the_bound(drive) -> None:
    """A client that states how long it waits is answered before that, and keeps its place for its next try."""
    shell = drive(max_wait_s=120.0, decay_base=1.0)
    shell.backend("a", 10_000)
    shell.arrive("r0", "p", 9_000)
    shell.arrive("r1", "q", 9_000, patience_s=25.0)
    assert shell.wait(30) == [(25.0, Refuse("q", "r1", Reason.PATIENCE, 1.0))]
    shell.arrive("r2", "q", 9_000, patience_s=100.0)
    assert shell.wait(100)[0] == (120.0, Restore("q", "a", Reason.WAIT_BOUND))
    shell.end("r2", outcome=Outcome.DISCONNECTED)


def test_priority_counts_over_all_models_of_an_engine(drive) -> None:
    shell = drive(decay_base=1.0)
    shell.backend("a", 10_000, "base", "lora")
    shell.arrive("r0", "p", 9_500, model="base")
    shell.on(ProgramRegistered("urgent", priority=-9))
    shell.arrive("r1", "big", 6_000, model="base")
    shell.arrive("r2", "urgent", 5_000, model="lora")
    assert shell.end("r0", outcome=Outcome.UPSTREAM_ERROR)[0] == Restore("urgent", "a", Reason.NEW)


def _pause_and_resume(shell: Driver, seconds: float) -> Restore:
    """Pause ``p`` at home, then let it come back after some time, with more room elsewhere."""
    shell.backend("home", 10_000)
    shell.backend("away", 9_999)
    shell.arrive("r0", "p", 4_000)
    shell.arrive("r1", "q", 4_000)
    shell.arrive("r2", "s", 5_000)
    assert shell.in_flight["r0"] == ("p", "home")
    shell.on(TokensGenerated("r2", 1_500))
    assert shell.end("r0", 4_000, 0) == [Pause("p", "home", Reason.THRASHING)]
    shell.end("r2", 1_000, 0)
    shell.arrive("r4", "s", 1_500)
    shell.end("r1", outcome=Outcome.UPSTREAM_ERROR)
    shell.wait(seconds)
    restore = shell.arrive("r3", "p", 4_100)[0]
    assert isinstance(restore, Restore)
    return restore


@pytest.mark.parametrize(("seconds", "home"), [(1.0, True), (9.9, True), (10.1, False), (60.0, False)])
def test_fault_08_moving_on_every_resume(drive, seconds: float, home: bool) -> None:
    """Home while the cache survives there (about 10 s under pressure), where most is free once it is gone."""
    restore = _pause_and_resume(drive(), seconds)
    assert restore.moved is not home
    assert restore.backend_id == ("home" if home else "away")


def test_fault_09_no_release_no_recovery(drive) -> None:
    """Clients that crash give their memory back with the lease, and the throughput does not stay down for ever."""
    shell = drive("cap", cap_programs=4, idle_lease_s=600.0, max_wait_s=10_000.0)
    shell.backend("a", 10_000)
    for number in range(4):
        shell.turn(f"crashed-{number}", 100)
    shell.wait(1)
    assert shell.arrive("r1", "alive", 100) == []
    told = [decision for _, decision in shell.wait(600)]
    assert Counter(type(decision).__name__ for decision in told) == {"Reclaim": 4, "Restore": 1, "Forward": 1}
    assert set(shell.scheduler.programs) == {"alive"}


def test_fault_10_the_default_bucket(drive) -> None:
    """Requests without identity are passed on one by one, and share neither a fate nor a program."""
    shell = drive("cap", cap_programs=1)
    shell.backend("a", 10_000)
    assert [shell.arrive(f"r{i}", None, 4_000) for i in range(5)] == [[Forward(None, f"r{i}", "a")] for i in range(5)]
    assert shell.scheduler.programs == {}
    assert shell.on(ProgramReleased("default")) == []
    assert shell.end("r0", 4_000, 5) == []
    assert len(shell.in_flight) == 4


def test_fault_11_a_silent_engine_is_not_a_healthy_one_core(drive) -> None:
    """An engine counts as up from its first answer until it is reported lost, and not a moment longer."""
    shell = drive()
    shell.on(BackendAdded("a"))
    assert not shell.scheduler.backends["a"].open
    assert shell.arrive("r1", "p") == [Refuse("p", "r1", Reason.NO_BACKEND, 5.0)]
    shell.on(BackendSampled("a", 10_000))
    assert shell.scheduler.backends["a"].open
    shell.on(BackendLost("a"))
    assert not shell.scheduler.backends["a"].open
    assert shell.on(Tick()) == []
    assert shell.arrive("r2", "p") == [Refuse("p", "r2", Reason.NO_BACKEND, 5.0)]
