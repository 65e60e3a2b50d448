"""``GET /metrics``: the engine model's figures under vLLM's names and labels."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

if TYPE_CHECKING:
    from collections.abc import Iterator

    from prometheus_client.metrics_core import Metric

    from thunderagent_core.engines.simulated.model import EngineModel

CONTENT_TYPE: Final = b"text/plain; version=1.0.0; charset=utf-8"
ENGINE: Final = "0"
_LABELS: Final = ("model_name", "engine")


class EngineCollector(Collector):
    """Reads the model at each scrape.

    Args:
        model: the engine.
        name: of the served model.
    """

    def __init__(self, model: EngineModel, name: str) -> None:
        self._model = model
        self._labels = (name, ENGINE)

    def collect(self) -> Iterator[Metric]:
        """Yield all metrics."""
        yield from self._gauges()
        yield from self._counters()
        yield self._finished()
        yield self._cache_config()

    def exposition(self) -> bytes:
        """Return the metrics as Prometheus text."""
        registry = CollectorRegistry(auto_describe=False)
        registry.register(self)
        return generate_latest(registry)

    def _gauges(self) -> Iterator[Metric]:
        model = self._model
        for name, text, value in (
            ("num_requests_running", "Simulated requests in the batch.", model.num_running),
            ("num_requests_waiting", "Simulated requests waiting to be processed.", model.num_waiting),
            ("kv_cache_usage_perc", "Simulated KV cache usage; 1 means 100 percent.", model.pool.usage),
        ):
            gauge = GaugeMetricFamily(f"vllm:{name}", text, labels=_LABELS)
            gauge.add_metric(self._labels, value)
            yield gauge

    def _counters(self) -> Iterator[Metric]:
        figures = self._model.statistics
        for name, text, value in (
            ("prefix_cache_queries", "Tokens looked up in the prefix cache.", figures.prefix_cache_queries),
            ("prefix_cache_hits", "Tokens found in the prefix cache.", figures.prefix_cache_hits),
            ("num_preemptions", "Preemptions.", figures.preemptions),
            ("prompt_tokens", "Prefill tokens processed.", figures.prompt_tokens),
            ("prompt_tokens_cached", "Cached prompt tokens.", figures.prompt_tokens_cached),
            ("generation_tokens", "Generation tokens processed.", figures.generation_tokens),
        ):
            counter = CounterMetricFamily(f"vllm:{name}", text, labels=_LABELS)
            counter.add_metric(self._labels, value)
            yield counter

    def _finished(self) -> Metric:
        counter = CounterMetricFamily(
            "vllm:request_success", "Simulated requests that ended.", labels=(*_LABELS, "finished_reason")
        )
        for reason in ("stop", "length", "abort"):
            counter.add_metric((*self._labels, reason), self._model.statistics.finished.get(reason, 0))
        return counter

    def _cache_config(self) -> Metric:
        limits = self._model.limits
        values = {
            "block_size": str(limits.block_tokens),
            "cache_dtype": "auto",
            "enable_prefix_caching": "True",
            "engine": ENGINE,
            "kv_cache_size_tokens": str(limits.num_blocks * limits.block_tokens),
            "num_gpu_blocks": str(limits.num_blocks),
            "num_gpu_blocks_override": str(limits.num_blocks),
            "simulated": "True",
        }
        gauge = GaugeMetricFamily("vllm:cache_config_info", "Sizes of the simulated cache.", labels=tuple(values))
        gauge.add_metric(tuple(values.values()), 1)
        return gauge
