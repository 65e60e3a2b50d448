"""What SGLang tells about itself. The names are those of ``srt/observability/metrics_collector.py``."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from thunderagent_core.engines.base import EngineError, EngineSample
from thunderagent_core.engines.http import EngineHttp, NotFoundError, first_error
from thunderagent_core.engines.prometheus import Metrics, MetricsError, parse
from thunderagent_core.engines.vllm import model_cards, names_and_length

if TYPE_CHECKING:
    from collections.abc import Mapping

    import httpx

RUNNING = "sglang:num_running_reqs"
WAITING = "sglang:num_queue_reqs"
KV_USAGE = "sglang:token_usage"
POOL = "sglang:max_total_num_tokens"
PAGE = "sglang:page_size"
RANKED = (RUNNING, WAITING, KV_USAGE, POOL, PAGE, "sglang:num_retracted_requests_total")
PROMPT = "sglang:prompt_tokens_total"
CACHED = "sglang:cached_tokens_total"
NAMES = (*RANKED, PROMPT, CACHED)
SERVER_INFO = ("/get_server_info", "/server_info")
"""The page's path, then its newer name: the first is to be removed one day."""


class SglangClient:
    """Reads one SGLang server's state; it must run with ``--enable-metrics``.

    Args:
        url: its base address.
        timeout_s: longest time for one question.
        api_key: SGLang's ``--api-key``, where it has one.
        transport: what carries the requests, for tests.
    """

    kind = "sglang"

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
        self._info: dict[str, Any] | None = None
        self._last_prompt_tokens = 0

    async def sample(self) -> EngineSample:
        """Ask for metrics and models, and for the server's settings where they are not known.

        Raises:
            EngineError: one of them could not be had; without ``--enable-metrics`` the message says so.
        """
        try:
            with first_error():
                async with asyncio.TaskGroup() as group:
                    metrics = group.create_task(self._metrics())
                    models = group.create_task(self._http.json("/v1/models"))
                    info = group.create_task(self._server_info())
        except EngineError:
            self._info = None  # it may come back with other settings
            raise
        sample = _sample(metrics.result(), info.result(), models.result())
        if sample.prompt_tokens < self._last_prompt_tokens:
            self._info = None  # it was restarted between two looks
        self._last_prompt_tokens = sample.prompt_tokens
        return sample

    async def aclose(self) -> None:
        """Close connections."""
        await self._http.aclose()

    async def _metrics(self) -> Metrics:
        try:
            found = parse(await self._http.text("/metrics"), NAMES)
        except NotFoundError as error:
            raise EngineError(f"{self.url} has no /metrics: start SGLang with --enable-metrics") from error
        except MetricsError as error:
            raise EngineError(f"{self.url}/metrics cannot be read: {error}") from error
        if not found.samples(RUNNING):
            raise EngineError(f"{self.url}/metrics has no {RUNNING}: is it SGLang?")
        return found

    async def _server_info(self) -> dict[str, Any]:
        """Return the settings. They are asked for once: the answer takes a turn of SGLang's scheduler."""
        if self._info is None:
            self._info = await self._ask_server_info()
        return self._info

    async def _ask_server_info(self) -> dict[str, Any]:
        old, new = SERVER_INFO
        try:
            return await self._http.json(old)
        except NotFoundError:
            return await self._http.json(new)


def _sample(metrics: Metrics, info: Mapping[str, Any], models: Mapping[str, Any]) -> EngineSample:
    names, max_model_len = names_and_length(model_cards(models))
    ranks = {name: _by_rank(metrics, name) for name in RANKED}
    usage = ranks[KV_USAGE].values()
    pages = ranks[PAGE].values()
    return EngineSample(
        capacity_tokens=_capacity(ranks[POOL], info),
        block_tokens=int(max(pages)) if pages else _page_size(info),
        kv_usage=sum(usage) / len(usage) if usage else 0.0,
        running=int(sum(ranks[RUNNING].values())),
        waiting=int(sum(ranks[WAITING].values())),
        prompt_tokens=int(metrics.total(PROMPT) or 0),
        cached_tokens=int(metrics.total(CACHED) or 0),
        preemptions=int(sum(ranks["sglang:num_retracted_requests_total"].values())),
        ranks=max(1, len(ranks[RUNNING])),
        max_model_len=max_model_len,
        models=names,
    )


def _by_rank(metrics: Metrics, name: str) -> dict[str, float]:
    """Return one value for each data-parallel rank.

    A rank's tensor-parallel workers (``tp_rank``) repeat its value. With priorities the total has an empty
    ``priority`` beside lines for each priority. Lines without ``dp_rank`` beside lines with one are sums.
    """
    totals = metrics.where(lambda labels: labels.get("priority", "") == "")
    values: dict[str, float] = {}
    for sample in totals.samples(name):
        rank = sample.labels.get("dp_rank", "")
        values[rank] = max(sample.value, values.get(rank, 0.0))
    if len(values) > 1:
        values.pop("", None)
    return values


def _capacity(pools: Mapping[str, float], info: Mapping[str, Any]) -> int | None:
    """Return the size of the KV pool over all ranks: from the metrics, else from each rank's own state.

    ``max_total_num_tokens`` of the server's settings is one rank's.
    """
    if pools:
        return int(sum(pools.values()))
    sizes = [_token_capacity(state) for state in _states(info)]
    if sizes and None not in sizes:
        return sum(size for size in sizes if size)
    one = _integer(info.get("max_total_num_tokens"))
    return one * (_integer(info.get("dp_size")) or 1) if one else None


def _page_size(info: Mapping[str, Any]) -> int | None:
    """Return the tokens in one page, from the settings or from the first rank's copy of them."""
    sizes = (_integer(settings.get("page_size")) for settings in (info, *_states(info)))
    return next((size for size in sizes if size), None)


def _states(info: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Return the ranks' states."""
    states = info.get("internal_states")
    return [state for state in states if isinstance(state, dict)] if isinstance(states, list) else []


def _token_capacity(state: Mapping[str, Any]) -> int | None:
    usage = state.get("memory_usage")
    return _integer(usage.get("token_capacity")) if isinstance(usage, dict) else None


def _integer(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None
