"""Rounds of measurements: every arm in each, in an order of chance, so that a slow minute hits all alike."""

from __future__ import annotations

import asyncio
import os
import random
import statistics
import time
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from benchmarks.load.arms import Arm, ArmError, Running, core_cpu_s
from benchmarks.load.engine import Replies, StubEngine
from benchmarks.load.generator import BadAnswerError, Load, Measured, StarvedError, run_load

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

DIRECT = "direct"
"""The arm without a proxy: what the engine and the load generator can do themselves."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What is measured.

    Args:
        rounds: how often each arm is measured.
        seconds: how long each measurement lasts.
        warmup_s: load before each measurement that does not count, in seconds.
        connections: clients at a time, except for latency, where there is one.
        prompt_bytes: length of each prompt.
        load_core: core of the engine and the load generator.
        proxy_core: core of the proxies.
        seed: for the order of the arms within each round.
        max_others: a measurement is repeated while other processes use more of the two cores than this (1 is
            one core).
        patience_s: for how long; the last one counts then, and shows what it shows.
    """

    rounds: int
    seconds: float
    warmup_s: float
    connections: int
    prompt_bytes: int
    load_core: int
    proxy_core: int
    seed: int
    max_others: float
    patience_s: float


@dataclass(slots=True)
class Sample:
    """One arm in one round; latencies and processor times in microseconds."""

    arm: str
    round: int
    requests_per_s: float
    chunks_per_s: float
    latency_p50_us: float
    latency_p99_us: float
    cpu_us_per_request: float
    cpu_us_per_chunk: float
    others: float


@dataclass(slots=True)
class Result:
    """All samples, and what went wrong: an arm with a failure has no sample for that round."""

    plan: dict[str, Any]
    samples: list[Sample] = field(default_factory=list)
    failures: dict[str, list[str]] = field(default_factory=dict)
    memory_bytes: dict[str, int] = field(default_factory=dict)


class Session:
    """Keeps all proxies running, each idle while another is measured."""

    def __init__(self, plan: Plan, replies: Replies, logs: Path, tell: Callable[[str], None]) -> None:
        self._plan = plan
        self._replies = replies
        self._logs = logs
        self._tell = tell
        self._engine = StubEngine(replies)
        self._engine_port = 0
        self._running: list[Running] = []
        self.result = Result({**asdict(plan), **asdict(replies)})

    async def run(self, arms: list[Arm]) -> Result:
        """Measure the arms. Whatever happens, no proxy is left running."""
        os.sched_setaffinity(0, {self._plan.load_core})
        self._engine_port = await self._engine.start()
        try:
            for arm in arms:
                await self._start(arm)
            for number in range(self._plan.rounds):
                await self._round(number)
            for proxy in self._running:
                self.result.memory_bytes[proxy.arm.name] = proxy.memory_bytes()
        finally:
            for proxy in self._running:
                proxy.stop()
            self._engine.stop()
        return self.result

    async def _start(self, arm: Arm) -> None:
        self._tell(f"starting {arm.name}")
        url = f"http://127.0.0.1:{self._engine_port}"
        proxy = Running(arm, url, self._plan.proxy_core, self._logs / f"proxy-{arm.name}.log")
        self._running.append(proxy)
        try:
            await proxy.ready()
        except ArmError as error:
            self._fail(arm.name, error)
            self._running.remove(proxy)
            proxy.stop()

    async def _round(self, number: int) -> None:
        order: list[Running | None] = [None, *self._running]
        random.Random(self._plan.seed + number).shuffle(order)
        for proxy in order:
            name = proxy.arm.name if proxy else DIRECT
            self._tell(f"round {number + 1} of {self._plan.rounds}: {name}")
            try:
                self.result.samples.append(await self._sample(name, number, proxy))
            except (BadAnswerError, OSError, ArmError) as error:
                self._fail(name, error)

    async def _sample(self, name: str, number: int, proxy: Running | None) -> Sample:
        whole = await self._measure(proxy, connections=self._plan.connections, stream=False)
        stream = await self._measure(proxy, connections=self._plan.connections, stream=True)
        alone = await self._measure(proxy, connections=1, stream=False)
        latencies = statistics.quantiles(alone.latencies, n=100)
        return Sample(
            arm=name,
            round=number,
            requests_per_s=whole.answers_per_s,
            chunks_per_s=stream.events_per_s,
            latency_p50_us=latencies[49] * 1e6,
            latency_p99_us=latencies[98] * 1e6,
            cpu_us_per_request=1e6 * whole.cpu_s / (whole.answers_per_s * whole.elapsed_s),
            cpu_us_per_chunk=1e6 * stream.cpu_s / (stream.events_per_s * stream.elapsed_s),
            others=max(whole.others, stream.others, alone.others),
        )

    async def _measure(self, proxy: Running | None, *, connections: int, stream: bool) -> Measured:
        plan = self._plan
        load = Load(connections, plan.seconds, plan.warmup_s, plan.prompt_bytes, stream)
        port = proxy.port if proxy is not None else self._engine_port
        deadline = time.monotonic() + plan.patience_s
        while True:
            late = time.monotonic() > deadline
            try:
                measured = await run_load(port, load, self._replies, lambda: self._used(proxy))
            except StarvedError:
                if late:
                    raise
            else:
                if late or measured.others <= plan.max_others:
                    return measured
            await asyncio.sleep(1.0)

    def _used(self, proxy: Running | None) -> tuple[float, float]:
        own = proxy.cpu_s() if proxy is not None else 0.0
        total = core_cpu_s(self._plan.load_core) + core_cpu_s(self._plan.proxy_core)
        return own, total - own - time.process_time()

    def _fail(self, name: str, error: Exception) -> None:
        self._tell(f"{name} failed: {error}")
        self.result.failures.setdefault(name, []).append(str(error))
