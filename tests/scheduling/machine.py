"""A state machine for hypothesis: any order of facts that a server can meet, under any policy and settings.

Rules pick their request or engine by an index into what there is, so that nearly every step changes something.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from thunderagent_core.scheduling import events as ev
from thunderagent_core.scheduling.events import Outcome
from thunderagent_core.scheduling.policies import POLICY_NAMES

from .driver import Driver
from .properties import no_backend_is_over, no_mark_is_needless, nobody_waits_who_would_fit, waits_are_bounded

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

POOL_TOKENS = 10_000

index = st.integers(0, 7)
programs = st.sampled_from([f"p{i}" for i in range(8)])
models = st.sampled_from([None, None, None, "small", "large"])
sizes = st.integers(1, 6_000)
usage = st.tuples(st.integers(1, 8_000), st.integers(0, 1_000), st.integers(0, 8_000))
served = st.sampled_from([(), (), (), ("small",), ("small", "large")])

ENVIRONMENT_EVENTS = [ev.EnvironmentsWanted, ev.EnvironmentReady, ev.EnvironmentFailed, ev.EnvironmentUsed]

settings_of_a_run = st.fixed_dictionaries(
    {
        "tick_s": st.sampled_from([0.5, 1.0, 30.0]),
        "high_watermark": st.sampled_from([0.5, 0.9, 1.0, 1.2]),
        "low_watermark": st.sampled_from([0.4, 0.9, 1.0]),
        "decay_base": st.sampled_from([1.0, 1.5, 2.0, 10.0]),
        "decay_interval_s": st.sampled_from([0.5, 5.0]),
        "growth_reserve_tokens": st.sampled_from([0, 300]),
        "max_wait_s": st.sampled_from([10.0, 60.0, 300.0]),
        "idle_lease_s": st.sampled_from([60.0, 1_800.0]),
        "interrupt_lease_s": st.sampled_from([120.0, 86_400.0]),
        "home_window_s": st.sampled_from([0.0, 10.0]),
        "discount_shared_prefix": st.booleans(),
        "prepare_ahead": st.integers(0, 3),
        "cap_programs": st.integers(1, 3),
        "ttl_s": st.sampled_from([0.0, 5.0]),
    }
)


class Shell(RuleBasedStateMachine):
    """Plays clients, adapters, engines and the clock. The driver's books catch orders that make no sense."""

    def __init__(self) -> None:
        super().__init__()
        self.numbers = 0

    @initialize(
        policy=st.sampled_from(["paper", *POLICY_NAMES]),
        settings=settings_of_a_run,
        start=st.sampled_from([0.0, 1.7e9]),
        second=served,
    )
    def begin(self, policy: str, settings: dict[str, Any], start: float, second: tuple[str, ...]) -> None:
        self.driver = Driver(policy, **settings)
        self.driver.now = start
        self.driver.backend("a", POOL_TOKENS)
        self.driver.backend("b", POOL_TOKENS, *second)

    def _act(self, event: ev.Event) -> None:
        self.driver.on(event)
        self.driver.scheduler.check()

    def _arrive(self, program: str | None, **fields: Any) -> None:
        self.numbers += 1
        self._act(ev.RequestArrived(f"r{self.numbers}", program, **fields))

    # Clients

    @rule(arrivals=st.lists(st.tuples(programs, sizes), min_size=1, max_size=6))
    def arrive_together(self, arrivals: list[tuple[str, int]]) -> None:
        for program, size in arrivals:
            self._arrive(program, prompt_chars=4 * size)

    @rule(program=programs, model=models, size=sizes, patience=st.none() | st.just(8.0))
    def arrive(self, program: str, model: str | None, size: int, patience: float | None) -> None:
        self._arrive(program, model=model, prompt_chars=4 * size, patience_s=patience)

    @rule(program=st.none() | programs, size=st.integers(1, 3 * POOL_TOKENS), exact=st.booleans())
    def arrive_large_or_nameless(self, program: str | None, size: int, exact: bool) -> None:
        self._arrive(program, prompt_chars=4 * size, prompt_tokens=size if exact else None)

    @precondition(lambda self: self.driver.held)
    @rule(at=index)
    def hang_up_while_held(self, at: int) -> None:
        self._act(ev.RequestEnded(_pick(self.driver.held, at), Outcome.DISCONNECTED))

    @precondition(lambda self: self.driver.ends)
    @rule(at=index)
    def end_again(self, at: int) -> None:
        self._act(ev.RequestEnded(_pick(self.driver.ends, at), Outcome.COMPLETED, 100, 10, 0))

    @rule(
        program=programs,
        parent=st.none() | programs,
        priority=st.integers(-2, 2),
        environments=st.booleans(),
    )
    def register(self, program: str, parent: str | None, priority: int, environments: bool) -> None:
        self._act(ev.ProgramRegistered(program, parent, priority=priority, environments=environments))

    @rule(program=programs, parent=st.none() | programs)
    def find(self, program: str, parent: str | None) -> None:
        self._act(ev.ProgramFound(program, parent))

    @rule(program=programs, size=sizes)
    def arrive_with_environments(self, program: str, size: int) -> None:
        self._arrive(program, prompt_chars=4 * size, environments=True)

    @rule(
        program=programs,
        kind=st.sampled_from([ev.EnvironmentsWanted, ev.EnvironmentReady, ev.EnvironmentFailed, ev.EnvironmentUsed]),
    )
    def tell_of_environments(self, program: str, kind: Callable[[str], ev.Event]) -> None:
        self._act(kind(program))

    @rule(program=programs)
    def release(self, program: str) -> None:
        self._act(ev.ProgramReleased(program))

    @rule(
        program=programs,
        kind=st.sampled_from([ev.ProgramIdled, ev.ProgramInterrupted, ev.ProgramResumed]),
    )
    def tell(self, program: str, kind: Callable[[str], ev.Event]) -> None:
        self._act(kind(program))

    @rule(program=programs, kind=st.sampled_from([ev.ToolStarted, ev.ToolEnded]))
    def tell_of_a_tool(self, program: str, kind: Callable[[str, str], ev.Event]) -> None:
        self._act(kind(program, "bash"))

    # Engines

    @precondition(lambda self: self.driver.in_flight)
    @rule(at=index, count=st.integers(0, 4_000))
    def stream(self, at: int, count: int) -> None:
        self._act(ev.TokensGenerated(_pick(self.driver.in_flight, at), count))

    @precondition(lambda self: self.driver.in_flight)
    @rule(at=index, used=usage)
    def complete(self, at: int, used: tuple[int, int, int]) -> None:
        self._act(ev.RequestEnded(_pick(self.driver.in_flight, at), Outcome.COMPLETED, *used))

    @precondition(lambda self: self.driver.in_flight)
    @rule(at=index, outcome=st.sampled_from([Outcome.UPSTREAM_ERROR, Outcome.TIMED_OUT, Outcome.DISCONNECTED]))
    def break_off(self, at: int, outcome: Outcome) -> None:
        self._act(ev.RequestEnded(_pick(self.driver.in_flight, at), outcome))

    @precondition(lambda self: self.driver.in_flight)
    @rule(at=index)
    def fail_to_take(self, at: int) -> None:
        request = _pick(self.driver.in_flight, at)
        self._act(ev.ForwardFailed(request, self.driver.in_flight[request][1]))

    @rule(backend=st.sampled_from("abc"), models=served, half=st.booleans())
    def come_up(self, backend: str, models: tuple[str, ...], half: bool) -> None:
        self._act(ev.BackendAdded(backend))
        self._act(ev.BackendSampled(backend, POOL_TOKENS // 2 if half else POOL_TOKENS, models))

    @precondition(lambda self: self.driver.open_backends)
    @rule(at=index, kind=st.sampled_from([ev.BackendLost, ev.BackendDrained]))
    def go_down(self, at: int, kind: Callable[[str], ev.Event]) -> None:
        self._act(kind(_pick(sorted(self.driver.open_backends), at)))

    # Time

    @rule(seconds=st.floats(0, 8) | st.floats(0, 80))
    def pass_time(self, seconds: float) -> None:
        self.driver.wait(seconds, self.driver.scheduler.check)

    @rule(seconds=st.sampled_from([0.01, 7.0, 400.0, 20_000.0]))
    def oversleep(self, seconds: float) -> None:
        """The timer fires late, as on a machine that was suspended."""
        self.driver.now += seconds
        self._act(ev.Tick())

    @rule()
    def go_back_in_time(self) -> None:
        now = self.driver.now
        self.driver.now = now - 1
        self._act(ev.Tick())
        self.driver.now = now

    # What must always hold

    @invariant()
    def always(self) -> None:
        if hasattr(self, "driver"):
            self.driver.compare_books()
            waits_are_bounded(self.driver)
            no_backend_is_over(self.driver)
            no_mark_is_needless(self.driver)
            nobody_waits_who_would_fit(self.driver)

    def teardown(self) -> None:
        """Once arrivals stop and all that runs ends, everybody who waits is served or refused within the bound."""
        if not hasattr(self, "driver"):
            return
        driver = self.driver
        arrived = set(driver.held) | set(driver.in_flight) | set(driver.ends)
        deadline = driver.now + driver.settings.max_wait_s
        while driver.in_flight or (driver.held and driver.now < deadline):
            for request in list(driver.in_flight):
                driver.on(ev.RequestEnded(request, Outcome.COMPLETED, 500, 50, 0))
            driver.wait(min(1.0, max(0.0, deadline - driver.now)))
        assert not driver.held, "waits past the bound"
        assert set(driver.ends) == arrived
        assert driver.scheduler.open_requests == driver.scheduler.waiting == 0
        driver.finish()


def _pick(items: Iterable[str], at: int) -> str:
    """Return one of the items, counted from the newest."""
    ordered = list(items)
    return ordered[-1 - at % len(ordered)]
