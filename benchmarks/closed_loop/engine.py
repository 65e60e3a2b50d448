"""The engine behind the arms: where it comes from, what it is, and how it is made to forget between two runs."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from benchmarks.testbed import RealVllm
from thunderagent_core.demo.children import child
from thunderagent_core.demo.requests import RequestFailedError, call_json
from thunderagent_core.demo.workload import Workload, system_prompt
from thunderagent_core.engines.base import EngineError
from thunderagent_core.engines.discovery import detect
from thunderagent_core.transport.client import ConnectionPool

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from thunderagent_core.engines.base import EngineSample

_OK: Final = 200
_BLOCK_TOKENS: Final = 32
_POLL_TIMEOUT_S: Final = 30.0
_QUIET_S: Final = 120.0
_HELD_S: Final = 60.0
_PROBE_TOKENS: Final = 2000


class UnusableEngineError(Exception):
    """The engine cannot serve for a comparison; the text says why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Engine:
    """A running engine.

    Args:
        url: its root, without /v1.
        model: name of its model.
        version: what ``GET /version`` says.
        capacity_tokens: KV pool.
        block_tokens: tokens in one block of it.
        chars_per_token: of the agents' texts, as its tokenizer counts.
        speed: how much faster than the workload's clock it runs; 1 for real engines.
        origin: where it comes from, in words.
    """

    url: str
    model: str
    version: str
    capacity_tokens: int
    block_tokens: int
    chars_per_token: float
    speed: float
    origin: str


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineChoice:
    """Which engine to use: one that runs at ``backend``, a ``simulated`` one, or else the real one of the testbed.

    Args:
        backend: URL of a running engine.
        simulated: start a simulated one.
        pool_tokens: KV pool of an engine that is started.
        speed: how much faster than its model the simulated one runs.
        cpus: cores for the testbed's engine, as in ``0-1``; None: all.
    """

    backend: str | None = None
    simulated: bool = False
    pool_tokens: int = 16_384
    speed: float = 8.0
    cpus: str | None = None


@contextlib.asynccontextmanager
async def running_engine(choice: EngineChoice) -> AsyncIterator[Engine]:
    """Start or find the engine. Raises UnusableEngineError, ChildError, SetupError or EngineStartError."""
    if choice.backend is not None:
        yield await look_at(choice.backend, origin="given by its address")
    elif choice.simulated:
        blocks = -(-choice.pool_tokens // _BLOCK_TOKENS)
        sizes = ["--num-blocks", str(blocks), "--block-tokens", str(_BLOCK_TOKENS), "--max-num-seqs", "64"]
        async with child("engine", "--port", "0", "--speed", f"{choice.speed:g}", *sizes) as url:
            origin = f"SIMULATED, {choice.speed:g} times as fast as its model"
            yield await look_at(url, origin=origin, speed=choice.speed)
    else:
        with RealVllm(kv_tokens=choice.pool_tokens, block_size=_BLOCK_TOKENS, cpus=choice.cpus) as real:
            cores = "" if choice.cpus is None else f" on cores {choice.cpus}"
            yield await look_at(real.url, origin=f"vLLM's CPU build with SmolLM2-135M{cores}")


async def look_at(url: str, *, origin: str, speed: float = 1.0) -> Engine:
    """Return what an engine tells of itself. Raises UnusableEngineError."""
    sample = await _sample(url)
    if sample.capacity_tokens is None or sample.block_tokens is None:
        raise UnusableEngineError(f"{url} does not tell the size of its KV cache")
    model = sample.models[0] if sample.models else str((await _ask(url, "GET", "/v1/models"))["data"][0]["id"])
    return Engine(
        url=url,
        model=model,
        version=str((await _ask(url, "GET", "/version"))["version"]),
        capacity_tokens=sample.capacity_tokens,
        block_tokens=sample.block_tokens,
        chars_per_token=await _chars_per_token(url, model),
        speed=speed,
        origin=origin,
    )


async def refresh(engine: Engine) -> None:
    """Wait until nothing runs on the engine, then empty its prefix cache.

    Raises:
        UnusableEngineError: it does not answer, goes on answering requests, or holds blocks of its cache.
    """
    try:
        async with asyncio.timeout(_QUIET_S):
            while (sample := await _sample(engine.url)).running or sample.waiting:  # noqa: ASYNC110 - it tells nobody
                await asyncio.sleep(0.1)
    except TimeoutError:
        raise UnusableEngineError(f"{engine.url} still has requests to answer after {_QUIET_S:g} s") from None
    try:
        async with asyncio.timeout(_HELD_S):
            while not await _reset(engine.url):  # noqa: ASYNC110 - as above
                await asyncio.sleep(0.1)
    except TimeoutError:
        raise UnusableEngineError(f"{engine.url} still holds blocks of its cache after {_HELD_S:g} s") from None


async def _reset(url: str) -> bool:
    """Ask once; return whether the cache is empty now: blocks of a request that has just ended may still be held."""
    answer = await _ask(url, "POST", "/reset_prefix_cache")
    return not isinstance(answer, dict) or bool(answer.get("success", True))  # older ones answer with nothing


async def _sample(url: str) -> EngineSample:
    try:
        client = await detect(url, timeout_s=_POLL_TIMEOUT_S)
    except EngineError as error:
        raise UnusableEngineError(str(error)) from error
    try:
        return await client.sample()
    except EngineError as error:
        raise UnusableEngineError(str(error)) from error
    finally:
        await client.aclose()


async def _chars_per_token(url: str, model: str) -> float:
    """Return how long the engine's tokens are in the kind of text that the agents write."""
    text = system_prompt(Workload(system_tokens=_PROBE_TOKENS))
    answer = await _ask(url, "POST", "/tokenize", {"model": model, "prompt": text})
    return len(text) / int(answer["count"])


async def _ask(url: str, method: str, path: str, body: Any = None) -> Any:
    pool = ConnectionPool(url)
    headers = [] if body is None else [(b"content-type", b"application/json")]
    try:
        status, content = await call_json(pool, method, path, headers, body, timeout_s=_POLL_TIMEOUT_S)
    except RequestFailedError as error:
        raise UnusableEngineError(f"{url}: {error}") from error
    finally:
        await pool.aclose()
    if status != _OK:
        hint = "; start vLLM with VLLM_SERVER_DEV_MODE=1" if path == "/reset_prefix_cache" else ""
        raise UnusableEngineError(f"{url}: {method} {path} was answered with status {status}{hint}")
    return content
