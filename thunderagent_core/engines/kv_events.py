"""Follow what an engine's KV cache holds, through restarts of the engine.

``async with KvEventSource("http://127.0.0.1:8000") as source: async for batch in source: …``
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import zmq.asyncio

from thunderagent_core.engines.base import EngineError
from thunderagent_core.engines.http import EngineHttp, NotFoundError
from thunderagent_core.engines.kv_subscription import ConnectionEndedError, KvAddress, KvSubscription

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Self

    import httpx

    from thunderagent_core.engines.kv_messages import KvBatch

QUEUED_BATCHES = 1_000
RETRY_S = 0.5


class KvEventsOffError(EngineError):
    """The engine answers, but publishes no KV events: asking again is no use."""


class KvEventSource:
    """The KV events of all data-parallel ranks of one engine, as an endless asynchronous iterator.

    It finds out by itself where the engine publishes (``GET /kv_event_sources``), connects or binds as the engine
    wants it, asks for the batches it missed, and begins anew when the engine restarts. Each connection begins
    with a ``Resync``; another one comes when batches are lost for good. Batches wait in a bounded queue.

    Args:
        url: the engine's base address.
        timeout_s: longest wait for an answer or a connection.
        api_key: bearer token where the engine wants one.
        addresses: where each rank publishes, for engines that do not tell (vLLM before 0.32, SGLang).
        context: ZeroMQ context to share among sources (each context has two threads); by default one of its own.
        transport: what carries the HTTP requests, for tests.

    Raises:
        KvEventsOffError: from the iteration, when the engine publishes none.
    """

    def __init__(
        self,
        url: str,
        *,
        timeout_s: float = 2.0,
        api_key: str | None = None,
        addresses: Mapping[int, KvAddress] | None = None,
        context: zmq.asyncio.Context | None = None,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        self.url = url.rstrip("/")
        self._timeout_s = timeout_s
        self._addresses = addresses
        self._context = context
        self._http = EngineHttp(url, timeout_s=timeout_s, api_key=api_key, transport=transport)
        self._queue: asyncio.Queue[KvBatch | BaseException] = asyncio.Queue(QUEUED_BATCHES)
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> KvBatch:
        if self._task is None:
            self._task = asyncio.create_task(self._run(), name=f"KV events of {self.url}")
        if self._task.done() and self._queue.empty():
            raise StopAsyncIteration  # it has raised its error before
        item = await self._queue.get()
        if isinstance(item, BaseException):
            raise item
        return item

    async def aclose(self) -> None:
        """Stop following and close the connections."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
        await self._http.aclose()

    async def _run(self) -> None:
        """Fill the queue; what goes wrong is put there too, for whoever iterates."""
        context = self._context or zmq.asyncio.Context()
        try:
            while True:
                await self._follow(context, await self._find_addresses())
                await asyncio.sleep(RETRY_S)
        except Exception as error:  # noqa: BLE001 - raised again by __anext__
            await self._queue.put(error)
        finally:
            if self._context is None:
                context.destroy(linger=0)

    async def _follow(self, context: zmq.asyncio.Context, addresses: Mapping[int, KvAddress]) -> None:
        """Follow every rank until one connection ends: ranks of one engine come and go together."""
        host = urlsplit(self.url).hostname or ""
        try:
            async with asyncio.TaskGroup() as group:
                for rank, address in addresses.items():
                    subscription = KvSubscription(
                        context,
                        address,
                        host=host,
                        rank=rank,
                        timeout_s=self._timeout_s,
                        deliver=self._queue.put,
                    )
                    group.create_task(subscription.run())
        except* ConnectionEndedError:
            pass  # the caller finds out anew where they publish

    async def _find_addresses(self) -> Mapping[int, KvAddress]:
        """Return where the engine publishes, asking until it is there to answer."""
        while self._addresses is None:
            try:
                return read_sources(await self._http.json("/kv_event_sources"))
            except KvEventsOffError:
                raise
            except NotFoundError as error:
                raise KvEventsOffError(
                    f"{self.url} does not tell where it publishes KV events (vLLM does since 0.32)"
                ) from error
            except EngineError:
                await asyncio.sleep(RETRY_S)
        return self._addresses


def read_sources(answer: Mapping[str, Any]) -> dict[int, KvAddress]:
    """Return the ranks' addresses from vLLM's answer to ``GET /kv_event_sources``.

    Raises:
        KvEventsOffError: no rank publishes by ZeroMQ.
    """
    addresses = {
        int(rank): KvAddress(source["endpoint"], source.get("topic") or "", source.get("replay_endpoint"))
        for rank, source in answer.items()
        if isinstance(source, dict) and source.get("publisher") == "zmq" and source.get("endpoint")
    }
    if not addresses:
        raise KvEventsOffError("the engine publishes no KV events: start vLLM with --kv-events-config")
    return addresses
