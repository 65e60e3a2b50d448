"""Find out which engine answers at an address."""

from __future__ import annotations

from typing import TYPE_CHECKING

from thunderagent_core.engines.base import EngineError
from thunderagent_core.engines.http import EngineHttp, NotFoundError
from thunderagent_core.engines.sglang import SERVER_INFO, SglangClient
from thunderagent_core.engines.vllm import VllmClient

if TYPE_CHECKING:
    import httpx

    from thunderagent_core.engines.base import EngineClient


async def detect(
    url: str,
    *,
    timeout_s: float = 2.0,
    api_key: str | None = None,
    transport: httpx.AsyncBaseTransport | None = None,
) -> EngineClient:
    """Return the client for the engine at ``url``, chosen by the names of its metrics.

    Args:
        url: the engine's base address.
        timeout_s: longest time for each question, here and in the client.
        api_key: bearer token where the engine wants one.
        transport: what carries the requests, for tests.

    Raises:
        EngineError: nobody answers, or it is neither vLLM nor SGLang, or an SGLang without ``--enable-metrics``.
    """
    http = EngineHttp(url, timeout_s=timeout_s, api_key=api_key, transport=transport)
    try:
        text = await _metrics(http)
    finally:
        await http.aclose()
    lines = f"\n{text}"
    if "\nvllm:" in lines:
        return VllmClient(url, timeout_s=timeout_s, api_key=api_key, transport=transport)
    if "\nsglang:" in lines:
        return SglangClient(url, timeout_s=timeout_s, api_key=api_key, transport=transport)
    raise EngineError(f"{url}/metrics has neither vLLM's nor SGLang's metrics: what runs there?")


async def _metrics(http: EngineHttp) -> str:
    try:
        return await http.text("/metrics")
    except NotFoundError as error:
        if await _is_sglang(http):
            raise EngineError(f"{http.url} has no /metrics: start SGLang with --enable-metrics") from error
        raise EngineError(f"{http.url} has no /metrics: it is neither vLLM nor SGLang") from error


async def _is_sglang(http: EngineHttp) -> bool:
    for path in SERVER_INFO:
        try:
            return "internal_states" in await http.json(path)
        except EngineError:
            continue
    return False
