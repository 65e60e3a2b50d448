"""Readable scenarios whose traces are kept in ``golden/``: each shows one policy doing what it is for."""

from __future__ import annotations

from thunderagent_core.scheduling.events import (
    BackendDrained,
    BackendLost,
    EnvironmentReady,
    ForwardFailed,
    Outcome,
    ProgramIdled,
    ProgramInterrupted,
    ProgramRegistered,
    TokensGenerated,
    ToolEnded,
    ToolStarted,
)

from .driver import Driver


def paper_thrashing() -> Driver:
    """Growth pauses, decay restores, a mark is taken back, the bound forces one in."""
    shell = Driver("paper", max_wait_s=40.0)
    shell.backend("a", 10_000)
    for program, tokens in (("p", 4_000), ("q", 3_000), ("s", 2_000)):
        shell.arrive(f"{program}1", program, tokens)
    shell.on(TokensGenerated("p1", 1_500))
    shell.arrive("s2", "s", 2_200)
    shell.wait(2)
    shell.end("q1", 3_000, 50)
    shell.on(ToolStarted("q", "bash"))
    shell.wait(3)
    shell.end("s1", 2_000, 20)
    shell.arrive("t1", "t", 6_000, environments=True)
    shell.on(EnvironmentReady("t"))
    shell.wait(15)
    shell.on(ToolEnded("q", "bash"))
    shell.arrive("q2", "q", 3_300)
    shell.wait(60)
    shell.end("p1", 5_000, 900)
    shell.release("p")
    shell.wait(5)
    return shell


def paper_two_engines() -> Driver:
    """One queue over two engines: home while warm, loss, failure, drain, another model, untracked requests."""
    shell = Driver("paper", decay_base=1.5, home_window_s=10.0)
    shell.backend("a", 10_000, "small")
    shell.backend("b", 8_000, "small", "large")
    shell.on(ProgramRegistered("urgent", group="g", priority=-1))
    for program, tokens in (("p", 6_000), ("q", 7_000), ("s", 3_000), ("urgent", 5_000)):
        shell.arrive(f"{program}1", program, tokens, model="small")
    shell.arrive("nobody", None, 500)
    shell.wait(3)
    shell.end("p1", 6_000, 100, 0)
    shell.on(ProgramIdled("p"))
    shell.wait(4)
    shell.arrive("p2", "p", 6_200, model="small")
    shell.arrive("s2", "s", 400, model="large")
    shell.on(BackendLost("b"))
    shell.on(ForwardFailed("q1", "b"))
    shell.wait(6)
    shell.sample("b", 8_000, "small", "large")
    for request in list(shell.in_flight):
        shell.end(request, 2_000, 40, 500)
    shell.on(BackendDrained("a"))
    shell.wait(10)
    for request in list(shell.in_flight):
        shell.end(request, outcome=Outcome.DISCONNECTED)
    return shell


def _contended(policy: str, **settings: float) -> Driver:
    """Six agents of three turns each over two pools that hold half of them; one is interrupted, one vanishes."""
    shell = Driver(policy, tick_s=5.0, idle_lease_s=40.0, interrupt_lease_s=60.0, **settings)
    shell.backend("a", 10_000)
    shell.backend("b", 10_000)
    for turn in range(3):
        for number in range(6):
            shell.arrive(f"r{turn}-{number}", f"p{number}", 3_000 + 700 * number + 500 * turn, patience_s=25.0)
            shell.wait(0.5)
        shell.wait(4)
        for request in sorted(shell.in_flight):
            shell.end(request, 3_000 + 500 * turn, 100, 1_000)
        shell.on(ProgramInterrupted("p1"))
        shell.wait(7 + 10 * turn)
    shell.release("p0")
    for request in sorted(shell.in_flight):
        shell.end(request, outcome=Outcome.UPSTREAM_ERROR)
    shell.wait(70)
    return shell


SCENARIOS = {
    "paper-thrashing": paper_thrashing,
    "paper-two-engines": paper_two_engines,
    "paper-contended": lambda: _contended("paper", growth_reserve_tokens=200),
    "passthrough-contended": lambda: _contended("passthrough"),
    "sticky-contended": lambda: _contended("sticky"),
    "cap-contended": lambda: _contended("cap", cap_programs=2),
    "ttl-contended": lambda: _contended("ttl", ttl_s=6.0),
}
