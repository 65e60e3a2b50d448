"""Hints that a container has ended, from the event streams of all daemons."""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import TYPE_CHECKING, Any, Final

from thunderagent_core.environments.base import Place, ProviderError
from thunderagent_core.environments.docker.daemon import filter_text
from thunderagent_core.environments.docker.marks import LABEL_HANDLE

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence

    import aiodocker

    from thunderagent_core.environments.docker.daemon import Daemon
    from thunderagent_core.environments.docker.marks import Marks

_REMEMBERED: Final = 4096
_QUEUED: Final = 1024
_STREAM_S: Final = 300.0
"""A stream is begun anew after this time: a connection to another machine may be dead without anybody noticing."""
_FIRST_PAUSE_S: Final = 0.1
_LONGEST_PAUSE_S: Final = 10.0
_NANOSECONDS: Final = 1_000_000_000


class Removals:
    """The last containers that we removed ourselves, whose end is no news."""

    def __init__(self) -> None:
        self._ids: dict[str, None] = {}

    def add(self, container_id: str) -> None:
        """Remember one, before it is removed; the oldest is forgotten."""
        self._ids[container_id] = None
        if len(self._ids) > _REMEMBERED:
            del self._ids[next(iter(self._ids))]

    def __contains__(self, container_id: str) -> bool:
        return container_id in self._ids


class Deaths:
    """Follows every daemon's events.

    Args:
        daemons: all of them.
        marks: of our installation.
        removals: what is no news.
    """

    def __init__(self, daemons: Sequence[Daemon], marks: Marks, removals: Removals) -> None:
        self._daemons = daemons
        self._marks = marks
        self._removals = removals

    async def follow(self) -> AsyncIterator[Place]:
        """Yield the places of containers that have ended, until the daemons are closed. Never raises."""
        queue: asyncio.Queue[Place | None] = asyncio.Queue(_QUEUED)
        begun = time.time_ns()  # what ends while the streams are still being opened is told from the daemons' memory
        watching = [asyncio.create_task(self._watch(daemon, begun, queue)) for daemon in self._daemons]
        ending = asyncio.create_task(self._end(queue))
        try:
            while (place := await queue.get()) is not None:
                yield place
        finally:
            for task in (ending, *watching):
                task.cancel()
            await asyncio.gather(ending, *watching, return_exceptions=True)

    async def _end(self, queue: asyncio.Queue[Place | None]) -> None:
        """Put the end into the queue once all daemons are closed."""
        for daemon in self._daemons:
            await daemon.closed.wait()
        await queue.put(None)

    async def _watch(self, daemon: Daemon, since: int, queue: asyncio.Queue[Place | None]) -> None:
        """Follow one daemon from a time in nanoseconds. After an interruption, what does not run is named as well."""
        interrupted = False
        pause_s = _FIRST_PAUSE_S

        async def report(event: Mapping[str, Any]) -> None:
            nonlocal since, pause_s
            since, pause_s = max(since, int(event["timeNano"]) + 1), _FIRST_PAUSE_S
            labels = event["Actor"]["Attributes"]
            if self._marks.owns_container(labels, labels["name"]) and event["Actor"]["ID"] not in self._removals:
                await queue.put(Place(daemon.url, labels["name"]))

        while True:
            with contextlib.suppress(ProviderError):
                if interrupted:
                    await self._name_stopped(daemon, queue)
                await daemon.act(lambda docker: _stream(docker, self._marks, since, report), timeout_s=_STREAM_S)
            interrupted = True
            await asyncio.sleep(pause_s)
            pause_s = min(_LONGEST_PAUSE_S, pause_s * 2)

    async def _name_stopped(self, daemon: Daemon, queue: asyncio.Queue[Place | None]) -> None:
        filters = filter_text({**self._marks.search(), "status": ["exited", "dead"]})
        for container in await daemon.ask(lambda docker: docker.containers.list(all=True, filters=filters)):
            handle = container["Labels"].get(LABEL_HANDLE, "")
            if f"/{handle}" in container["Names"]:
                await queue.put(Place(daemon.url, handle))


async def _stream(
    docker: aiodocker.Docker, marks: Marks, since: int, report: Callable[[Mapping[str, Any]], Awaitable[None]]
) -> None:
    """Report every event from a time on until the stream ends. Each stream has its own reader: one reads once only."""
    from aiodocker.events import DockerEvents  # noqa: PLC0415 - the core works without it

    events: Any = DockerEvents(docker)  # type: ignore[no-untyped-call]
    arrivals = events.subscribe(create_task=False)
    filters = filter_text({**marks.search(), "type": ["container"], "event": ["die", "destroy"]})
    seconds, nanoseconds = divmod(since, _NANOSECONDS)
    reading = asyncio.create_task(events.run(filters=filters, since=f"{seconds}.{nanoseconds:09d}"))
    try:
        while (event := await arrivals.get()) is not None:
            await report(event)
        await reading
    finally:
        reading.cancel()
        await asyncio.gather(reading, return_exceptions=True)
