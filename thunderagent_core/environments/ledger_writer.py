"""Who runs changes on the store: a thread of its own, so that the event loop never waits for a disk."""

from __future__ import annotations

import asyncio
import contextlib
import queue
import threading
from typing import TYPE_CHECKING, Any, Protocol

from thunderagent_core.environments.ledger_errors import LedgerError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from thunderagent_core.environments.ledger_store import Job, Store

_MAX_BATCH = 256
"""Changes in one transaction at most."""


class Writer(Protocol):
    """Runs changes in the order in which they were submitted."""

    def submit(self, job: Job) -> asyncio.Future[Any]:
        """Return a future of the job's result. Nobody may cancel it: whether the job ran would be unknown."""
        ...

    async def aclose(self) -> None:
        """Run what was submitted, then close the store."""
        ...


class ThreadWriter:
    """Runs changes on a thread; those that queue up while the disk is busy share the next transaction.

    Args:
        store: the opened store.
    """

    def __init__(self, store: Store, jobs: queue.SimpleQueue[Any]) -> None:
        self._store = store
        self._jobs = jobs
        self._loop = asyncio.get_running_loop()
        self._closed = False

    @classmethod
    async def start(cls, open_store: Callable[[], Store]) -> tuple[ThreadWriter, Store]:
        """Open the store on a new thread. Raises what ``open_store`` raises."""
        loop = asyncio.get_running_loop()
        opened: asyncio.Future[Store] = loop.create_future()
        jobs: queue.SimpleQueue[Any] = queue.SimpleQueue()
        # A daemon: a process that is to end must not wait for whoever forgot to close a ledger.
        threading.Thread(target=_work, args=(open_store, opened, jobs, loop), name="ledger", daemon=True).start()
        store = await opened
        return cls(store, jobs), store

    def submit(self, job: Job) -> asyncio.Future[Any]:
        """Queue a change. Raises LedgerError once closed."""
        if self._closed:
            raise LedgerError("the ledger is closed")
        future = self._loop.create_future()
        self._jobs.put((job, future))
        return future

    async def aclose(self) -> None:
        """Wait until everything is written, and end the thread."""
        if self._closed:
            return
        self._closed = True
        ended = self._loop.create_future()
        self._jobs.put((None, ended))
        await ended


def _work(
    open_store: Callable[[], Store],
    opened: asyncio.Future[Store],
    jobs: queue.SimpleQueue[Any],
    loop: asyncio.AbstractEventLoop,
) -> None:
    try:
        store = open_store()
    except BaseException as error:  # noqa: BLE001 - it is raised again where somebody waits
        _deliver(loop, [(opened, error)])
        return
    _deliver(loop, [(opened, store)])
    while True:
        batch = _next_batch(jobs)
        last = batch.pop()[1] if batch[-1][0] is None else None
        if batch:
            results = run_batch(store, [job for job, _ in batch])
            _deliver(loop, list(zip([future for _, future in batch], results, strict=True)))
        if last is not None:
            store.close()
            _deliver(loop, [(last, None)])
            return


def _next_batch(jobs: queue.SimpleQueue[Any]) -> list[Any]:
    """Wait for a job and return it with those that have queued up, up to the one that says to close."""
    batch = [jobs.get()]
    while batch[-1][0] is not None and len(batch) < _MAX_BATCH:
        try:
            batch.append(jobs.get_nowait())
        except queue.Empty:
            break
    return batch


def run_batch(store: Store, jobs: Sequence[Job]) -> list[Any]:
    """Return the result of each job, or the exception that it ended with."""
    try:
        return store.run(jobs)
    except Exception as error:  # noqa: BLE001 - it is raised again where somebody waits
        return [error] * len(jobs)


def _deliver(loop: asyncio.AbstractEventLoop, results: Sequence[tuple[asyncio.Future[Any], Any]]) -> None:
    with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
        loop.call_soon_threadsafe(resolve, results)


def resolve(results: Sequence[tuple[asyncio.Future[Any], Any]]) -> None:
    """Give each future its result; an exception is raised where it is awaited."""
    for future, result in results:
        if future.cancelled():
            continue
        if isinstance(result, BaseException):
            future.set_exception(result)
        else:
            future.set_result(result)
