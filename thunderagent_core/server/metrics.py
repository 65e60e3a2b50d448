"""``GET /metrics``: counted by the runtime, read from the scheduler at scrape time, written by prometheus_client."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from thunderagent_core.server.environment_metrics import EnvironmentCollector

if TYPE_CHECKING:
    from collections.abc import Iterator

    from prometheus_client.metrics_core import Metric

    from thunderagent_core.environments.manager.manager import Manager
    from thunderagent_core.server.fleet import Fleet
    from thunderagent_core.server.runtime import Runtime

_BACKEND_GAUGES = (
    ("healthy", "Whether the engine answers (1) or not (0)."),
    ("capacity_tokens", "Size C of the KV cache in tokens."),
    ("demand_tokens", "Right side of eq 7, plus what paused programs still hold, in tokens."),
    ("programs", "Programs bound to the backend."),
    ("in_flight", "Requests of ours in flight there."),
)
_ENGINE_COUNTERS = (
    ("prompt_tokens", "Prompt tokens looked up in the engine's prefix cache."),
    ("cached_tokens", "Prompt tokens found there."),
    ("preemptions", "Requests that the engine threw back for lack of memory."),
)


class MetricsPage:
    """Renders the server's metrics in Prometheus' text format."""

    content_type = b"text/plain; version=0.0.4; charset=utf-8"

    def __init__(self, runtime: Runtime, fleet: Fleet, manager: Manager | None = None) -> None:
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(_ServerCollector(runtime, fleet))
        if manager is not None:
            self._registry.register(EnvironmentCollector(manager))

    def render(self) -> bytes:
        """Return the page."""
        return generate_latest(self._registry)


class _ServerCollector(Collector):
    def __init__(self, runtime: Runtime, fleet: Fleet) -> None:
        self._runtime = runtime
        self._fleet = fleet

    def collect(self) -> Iterator[Metric]:
        runtime = self._runtime
        yield _counter("thunderagent_requests", "Requests that ended, by outcome.", "outcome", runtime.outcomes)
        yield _counter("thunderagent_decisions", "Decisions of the scheduler.", "decision", runtime.decisions)
        states: Counter[tuple[str, str]] = Counter()
        for program in runtime.scheduler.programs.values():
            states[program.status, program.phase] += 1
        programs = GaugeMetricFamily("thunderagent_programs", "Live programs.", labels=["status", "phase"])
        for key, count in sorted(states.items()):
            programs.add_metric([*key], count)
        yield programs
        yield _gauge("thunderagent_waiting_programs", "Programs in the waiting queue.", runtime.scheduler.waiting)
        yield _gauge("thunderagent_open_requests", "Requests held or in flight.", runtime.scheduler.open_requests)
        yield from self._backends()

    def _backends(self) -> Iterator[Metric]:
        now = self._runtime.now
        backends = list(self._runtime.scheduler.backends.values())
        rows = {
            backend.id: {
                "healthy": int(backend.healthy),
                "capacity_tokens": backend.capacity_tokens,
                "demand_tokens": backend.demand(now) + backend.leaving,
                "programs": len(backend.programs),
                "in_flight": len(backend.in_flight),
            }
            for backend in backends
        }
        for name, text in _BACKEND_GAUGES:
            gauge = GaugeMetricFamily(f"thunderagent_backend_{name}", text, labels=["backend"])
            for backend_id, row in rows.items():
                gauge.add_metric([backend_id], row[name])
            yield gauge
        for name, text in _ENGINE_COUNTERS:
            counter = CounterMetricFamily(f"thunderagent_engine_{name}", text, labels=["backend"])
            for engine in self._fleet.engines.values():
                if engine.sample is not None:
                    counter.add_metric([engine.id], getattr(engine.sample, name))
            yield counter


def _counter(name: str, text: str, label: str, counts: Counter[str]) -> CounterMetricFamily:
    family = CounterMetricFamily(name, text, labels=[label])
    for value, count in sorted(counts.items()):
        family.add_metric([value], count)
    return family


def _gauge(name: str, text: str, value: float) -> GaugeMetricFamily:
    family = GaugeMetricFamily(name, text)
    family.add_metric([], value)
    return family
