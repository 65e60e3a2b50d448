"""The engines: a connection pool and a poller for each, none of which waits for another."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from thunderagent_core.engines.base import EngineClient, EngineError, EngineSample
from thunderagent_core.scheduling.decisions import Detach
from thunderagent_core.scheduling.events import BackendAdded, BackendDrained, BackendLost, BackendSampled
from thunderagent_core.transport.client import ConnectionPool

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from thunderagent_core.scheduling.decisions import Decision
    from thunderagent_core.scheduling.events import Event
    from thunderagent_core.server.attempt import Attempt

_LOG = logging.getLogger(__name__)

_SOON_S = 0.05
"""Pause in seconds before an engine is looked at early, so that a broken one is not asked in a tight loop."""


@dataclass(slots=True, eq=False)
class Engine:
    """One engine and what was last seen of it."""

    id: str
    url: str
    pool: ConnectionPool
    client: EngineClient | None = None
    sample: EngineSample | None = None
    problem: str | None = "not asked yet"
    failures: int = 0
    closed: bool = False
    task: asyncio.Task[None] | None = None
    wake: asyncio.Event = field(default_factory=asyncio.Event)
    attempts: set[Attempt] = field(default_factory=set)
    """Requests that are there now."""


class NoCapacityError(Exception):
    """An engine answers but does not tell the size of its KV cache, and none was configured."""


class KnownBackendError(Exception):
    """There is a backend with this id; ``same_url`` tells whether it is just this one."""

    def __init__(self, message: str, backend_id: str, *, same_url: bool) -> None:
        super().__init__(message)
        self.backend_id = backend_id
        self.same_url = same_url


@dataclass(frozen=True, slots=True)
class PollSettings:
    """How engines are watched.

    Args:
        interval_s: seconds between polls of one engine.
        lost_after: polls in a row without an answer after which an engine counts as lost.
        capacity_tokens: KV cache size for engines that do not tell, or that overrides what they tell.
        response_timeout_s: longest silence of an engine before an answer or within it, in seconds.
    """

    interval_s: float = 1.0
    lost_after: int = 3
    capacity_tokens: int | None = None
    response_timeout_s: float = 3600.0


class Fleet:
    """Adds, watches, drains and drops engines, and reports to the scheduler what it sees.

    Args:
        detect: finds out what kind of engine answers at a URL.
        post: takes events.
        settings: how to watch.
    """

    def __init__(
        self,
        detect: Callable[[str], Awaitable[EngineClient]],
        post: Callable[[Event], object],
        settings: PollSettings,
    ) -> None:
        self.engines: dict[str, Engine] = {}
        self._detect = detect
        self._post = post
        self._settings = settings
        self._closing: set[asyncio.Task[None]] = set()

    def add(self, url: str) -> Engine:
        """Put an engine under the scheduler, which uses it from its first good answer.

        Raises ValueError for a URL that no engine can have, KnownBackendError for one that is a backend already.
        """
        url = url.rstrip("/")
        backend_id = backend_id_of(url)
        known = self.engines.get(backend_id)
        if known is not None:
            same = known.url == url
            message = f"{url} is already a backend" if same else f"{known.url} already has the id {backend_id}"
            raise KnownBackendError(message, backend_id, same_url=same)
        engine = Engine(backend_id, url, ConnectionPool(url, silence_s=self._settings.response_timeout_s))
        self.engines[backend_id] = engine
        self._post(BackendAdded(backend_id))
        return engine

    def watch(self, engine: Engine) -> None:
        """Poll an engine from now on."""
        engine.task = asyncio.get_running_loop().create_task(self._watch(engine), name=f"watch {engine.id}")

    def drain(self, backend_id: str) -> None:
        """Take an engine out once nothing of ours is in flight there."""
        self._post(BackendDrained(backend_id))

    def heed(self, now: float, decision: Decision) -> None:  # noqa: ARG002 - the signature of a listener
        """Let go of an engine when the scheduler says that it has drained."""
        if type(decision) is Detach:
            self._drop(decision.backend_id)

    def _drop(self, backend_id: str) -> None:
        engine = self.engines.pop(backend_id)
        task = asyncio.get_running_loop().create_task(_close(engine))
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)

    def lost(self, engine: Engine, problem: str) -> None:
        """Report that nobody listens at the engine's address, and look again soon."""
        self._lose(engine, problem)
        engine.wake.set()

    def suspect(self, engine: Engine) -> None:
        """Look at an engine now: a request to it broke off."""
        engine.wake.set()

    async def aclose(self) -> None:
        """Stop watching and close every connection."""
        await asyncio.gather(*(_close(engine) for engine in self.engines.values()), *self._closing)
        self.engines.clear()

    async def first_look(self, engine: Engine) -> None:
        """Poll once, now. Raises NoCapacityError where the engine answers without telling a size."""
        await self._poll(engine)
        if engine.sample is not None and self._capacity(engine.sample) is None:
            raise NoCapacityError(no_capacity(engine.url))

    async def _watch(self, engine: Engine) -> None:
        """Poll until the engine is closed. Cancelling alone would not do: a task group forgets it beside an error."""
        while True:
            engine.wake.clear()
            try:
                await self._poll(engine)
            except Exception as error:  # noqa: BLE001 - whatever it is, the other engines and later polls go on
                _LOG.exception("polling %s failed in a way that is a bug", engine.url)
                self._unanswered(engine, EngineError(f"{type(error).__name__}: {error}"))
            if engine.closed:
                return
            with contextlib.suppress(TimeoutError):
                # Not wait_for: before Python 3.12 it forgets a cancellation that comes together with the wake-up.
                async with asyncio.timeout(self._settings.interval_s):
                    await engine.wake.wait()
                await asyncio.sleep(_SOON_S)

    async def _poll(self, engine: Engine) -> None:
        try:
            if engine.client is None:
                engine.client = await self._detect(engine.url)
            sample = await engine.client.sample()
        except EngineError as error:
            self._unanswered(engine, error)
            return
        if engine.sample is not None and sample.prompt_tokens < engine.sample.prompt_tokens:
            self._lose(engine, "its counters went back: it was restarted")
        engine.sample, engine.failures = sample, 0
        capacity = self._capacity(sample)
        if capacity is None:
            self._lose(engine, no_capacity(engine.url))
            return
        if engine.problem is not None:
            _LOG.info("%s is up: %d tokens of KV cache", engine.url, capacity)
        engine.problem = None
        self._post(BackendSampled(engine.id, capacity, sample.models))

    def _unanswered(self, engine: Engine, error: EngineError) -> None:
        engine.failures += 1
        if error.refused or engine.failures >= self._settings.lost_after or engine.sample is None:
            self._lose(engine, str(error))
            for attempt in list(engine.attempts):  # with each poll: another engine may have come up meanwhile
                attempt.engine_lost()

    def _lose(self, engine: Engine, problem: str) -> None:
        if engine.problem is None:
            _LOG.warning("lost %s: %s", engine.url, problem)
        engine.problem = problem
        self._post(BackendLost(engine.id))

    def _capacity(self, sample: EngineSample) -> int | None:
        return self._settings.capacity_tokens or sample.capacity_tokens or None


def no_capacity(url: str) -> str:
    """Return the sentence for an engine that does not tell the size of its KV cache."""
    return f"{url} does not report the size of its KV cache; give it with --capacity-tokens"


def backend_id_of(url: str) -> str:
    """Return the id of the engine at ``url``: host, port and path. Raises ValueError for what is no engine's root."""
    parts = urlsplit(url)
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise ValueError(f"{url!r} is not an http:// or https:// URL")
    if parts.path.rstrip("/").endswith("/v1"):
        raise ValueError(f"{url!r} ends in /v1, which is part of each request's path already")
    port = parts.port or (443 if parts.scheme == "https" else 80)
    return "-".join([parts.hostname, str(port), *filter(None, parts.path.split("/"))])


async def _close(engine: Engine) -> None:
    engine.closed = True
    if engine.task is not None:
        engine.task.cancel()
        await asyncio.gather(engine.task, return_exceptions=True)
    if engine.client is not None:
        await engine.client.aclose()
    await engine.pool.aclose()
