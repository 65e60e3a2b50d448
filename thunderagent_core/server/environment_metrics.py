"""The metrics of tool environments, read from their manager at scrape time."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, SummaryMetricFamily
from prometheus_client.registry import Collector

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from prometheus_client.metrics_core import Metric

    from thunderagent_core.environments.manager.manager import Manager
    from thunderagent_core.environments.manager.statistics import Snapshot, Times

_PREFIX: Final = "thunderagent_environment"

_COUNTS: Final = (
    ("made", "Environments that were made ready."),
    ("reclaimed", "Environments that were taken back."),
    ("lost", "Environments that were in use and are gone."),
    ("quarantined", "Things found with our label that no record knew."),
    ("handed_out", "Environments that were ready in a warm pool."),
    ("frozen", "Times that an environment was frozen."),
    ("put_aside", "Times that an environment was dropped in favour of its snapshot."),
    ("brought_back", "Times that an environment was made again from its snapshot."),
    ("wanted", "Environments that their programs came to use."),
    ("hidden", "Those of them that were ready by then."),
    ("images_brought", "Images that were pulled or built."),
    ("images_removed", "Images that were collected, because nobody needed them."),
)

_TIMES: Final = (
    ("start_s", "start_seconds", "Time that making an environment took."),
    ("wait_s", "wait_seconds", "Time that programs waited for an environment at first use."),
    ("reclaim_s", "reclaim_seconds", "Time from the end of an environment until nothing was left."),
)


class EnvironmentCollector(Collector):
    """Collects from one manager."""

    def __init__(self, manager: Manager) -> None:
        self._manager = manager

    def collect(self) -> Iterator[Metric]:
        """Yield what the manager knows now."""
        seen = self._manager.statistics()
        yield _labelled("thunderagent_environments", "Tool environments by state.", "state", seen.states)
        for name, text, value in _gauges(seen):
            gauge = GaugeMetricFamily(f"{_PREFIX}_{name}", text)
            gauge.add_metric([], value)
            yield gauge
        yield _free_disk(seen)
        for name, text in _COUNTS:
            counter = CounterMetricFamily(f"{_PREFIX}_{name}", text)
            counter.add_metric([], getattr(seen.counts, name))
            yield counter
        yield _failures(seen.counts.failed)
        for field, name, text in _TIMES:
            times: Times = getattr(seen.counts, field)
            yield SummaryMetricFamily(f"{_PREFIX}_{name}", text, times.count, times.total_s)


def _gauges(seen: Snapshot) -> Iterator[tuple[str, str, float]]:
    yield "queued", "Environments that wait to be made.", seen.queued
    yield "creating", "Environments being made.", seen.creating
    yield "reclaiming", "Environments being taken back.", seen.reclaiming
    yield "disk_reserved_bytes", "Disk that environments reserve.", seen.disk.reserved
    yield "disk_used_bytes", "Disk that environments use, as last measured.", seen.disk.used
    yield "disk_charged_bytes", "The larger of the two for each environment.", seen.disk.charged
    if seen.disk_budget_bytes is not None:
        yield "disk_budget_bytes", "Disk for all environments together.", seen.disk_budget_bytes
    yield "images", "Images that this server pulled or built, and that are still there.", seen.images
    yield "image_bytes", "What these take; shared layers count in each of them.", seen.image_bytes
    yield "ports_leased", "Host ports leased out of the range.", seen.ports_leased
    yield "ports_in_range", "Host ports in the range; 0: free ones are chosen.", seen.ports_in_range


def _labelled(name: str, text: str, label: str, counts: Mapping[str, int]) -> GaugeMetricFamily:
    family = GaugeMetricFamily(name, text, labels=[label])
    for value, count in sorted(counts.items()):
        family.add_metric([value], count)
    return family


def _free_disk(seen: Snapshot) -> GaugeMetricFamily:
    text = "Free disk where environments are stored, as last seen."
    family = GaugeMetricFamily(f"{_PREFIX}_free_disk_bytes", text, labels=["provider", "endpoint"])
    for (provider, endpoint), count in sorted(seen.free_disk_bytes.items()):
        family.add_metric([provider, endpoint], count)
    return family


def _failures(failed: Mapping[str, int]) -> CounterMetricFamily:
    family = CounterMetricFamily(f"{_PREFIX}_failures", "Attempts to make one that failed.", labels=["code"])
    for code, count in sorted(failed.items()):
        family.add_metric([code], count)
    return family
