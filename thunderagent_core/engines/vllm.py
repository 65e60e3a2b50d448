"""What vLLM tells about itself. The names are those of vLLM's ``v1/metrics/loggers.py``; see docs/engines.md."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from thunderagent_core.engines.base import EngineError, EngineSample
from thunderagent_core.engines.http import EngineHttp, first_error
from thunderagent_core.engines.prometheus import Metrics, MetricsError, parse

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    import httpx

CACHE_INFO = "vllm:cache_config_info"
RUNNING = "vllm:num_requests_running"
WAITING = "vllm:num_requests_waiting"
# From here on: today's name first, then those of earlier releases.
KV_USAGE = ("vllm:kv_cache_usage_perc", "vllm:gpu_cache_usage_perc")
QUERIES = (
    "vllm:prefix_cache_queries_total",
    "vllm:prefix_cache_queries",
    "vllm:gpu_prefix_cache_queries_total",
    "vllm:gpu_prefix_cache_queries",
)
HITS = (
    "vllm:prefix_cache_hits_total",
    "vllm:prefix_cache_hits",
    "vllm:gpu_prefix_cache_hits_total",
    "vllm:gpu_prefix_cache_hits",
)
PREEMPTIONS = ("vllm:num_preemptions_total", "vllm:num_preemptions")
NAMES = (CACHE_INFO, RUNNING, WAITING, *KV_USAGE, *QUERIES, *HITS, *PREEMPTIONS)


class VllmClient:
    """Reads one vLLM server's state.

    Args:
        url: its base address.
        timeout_s: longest time for one sample.
        api_key: vLLM's ``--api-key``, where it has one.
        transport: what carries the requests, for tests.
    """

    kind = "vllm"

    def __init__(
        self,
        url: str,
        *,
        timeout_s: float = 2.0,
        api_key: str | None = None,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        self._http = EngineHttp(url, timeout_s=timeout_s, api_key=api_key, transport=transport)
        self.url = self._http.url

    async def sample(self) -> EngineSample:
        """Ask for health, metrics and models at once. After a restart the counters begin at zero again.

        Raises:
            EngineError: one of them could not be had, or the metrics are not vLLM's.
        """
        with first_error():
            async with asyncio.TaskGroup() as group:
                group.create_task(self._http.text("/health"))
                metrics = group.create_task(self._http.text("/metrics"))
                models = group.create_task(self._http.json("/v1/models"))
        try:
            found = parse(metrics.result(), NAMES)
        except MetricsError as error:
            raise EngineError(f"{self.url}/metrics cannot be read: {error}") from error
        if not found.samples(RUNNING):
            raise EngineError(f"{self.url}/metrics has no {RUNNING}: is it vLLM?")
        return _sample(found, model_cards(models.result()))

    async def aclose(self) -> None:
        """Close connections."""
        await self._http.aclose()


def model_cards(models: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Return the entries of an answer to ``GET /v1/models``, those that are no objects left out."""
    cards = models.get("data")
    return [card for card in cards if isinstance(card, dict)] if isinstance(cards, list) else []


def names_and_length(cards: Iterable[Mapping[str, Any]]) -> tuple[tuple[str, ...], int | None]:
    """Return the models' names and the shortest of their longest contexts, in tokens."""
    names = []
    lengths = []
    for card in cards:
        if isinstance(card.get("id"), str):
            names.append(card["id"])
        if isinstance(card.get("max_model_len"), int):
            lengths.append(card["max_model_len"])
    return tuple(names), min(lengths, default=None)


def _sample(metrics: Metrics, cards: Iterable[Mapping[str, Any]]) -> EngineSample:
    names, max_model_len = names_and_length(cards)
    infos = metrics.infos(CACHE_INFO)
    return EngineSample(
        capacity_tokens=_capacity(infos),
        block_tokens=_number(infos[0], "block_size") if infos else None,
        kv_usage=metrics.mean(*KV_USAGE) or 0.0,
        running=int(metrics.total(RUNNING) or 0),
        waiting=int(metrics.total(WAITING) or 0),
        prompt_tokens=int(metrics.total(*QUERIES) or 0),
        cached_tokens=int(metrics.total(*HITS) or 0),
        preemptions=int(metrics.total(*PREEMPTIONS) or 0),
        ranks=max(1, len(metrics.label_values("engine", RUNNING))),
        max_model_len=max_model_len,
        models=names,
    )


def _capacity(infos: Iterable[Mapping[str, str]]) -> int | None:
    """Return the size of the KV pool over all data-parallel ranks.

    ``kv_cache_size_tokens`` is one rank's, and each rank has a line of its own, so the lines add up.
    ``num_gpu_blocks`` is already the sum over the ranks, repeated on each line (``v1/engine/core_client.py``
    adds it up); adding the lines would count N ranks N² times.
    """
    sizes = [_number(info, "kv_cache_size_tokens") for info in infos]
    if sizes and None not in sizes:
        return sum(size for size in sizes if size)
    products = [_product(info, "block_size", "num_gpu_blocks") for info in infos]
    return max((product for product in products if product), default=None)


def _product(info: Mapping[str, str], first: str, second: str) -> int | None:
    one, other = _number(info, first), _number(info, second)
    return one * other if one and other else None


def _number(info: Mapping[str, str], label: str) -> int | None:
    """Return a label as a number; unset ones read "None"."""
    text = info.get(label, "")
    return int(text) if text.isdecimal() else None
