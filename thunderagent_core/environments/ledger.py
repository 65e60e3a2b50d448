"""The durable memory of environments: what exists, whose it is, what is meant to become of it.

Every change is one transaction on disk before the call returns, and is refused where another server has taken over.
"""

from __future__ import annotations

import secrets
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from thunderagent_core.environments import ledger_images as images
from thunderagent_core.environments import ledger_jobs as jobs
from thunderagent_core.environments.ledger_store import Store
from thunderagent_core.environments.ledger_writer import ThreadWriter

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Collection, Mapping, Sequence
    from pathlib import Path
    from typing import Unpack

    from thunderagent_core.environments.ledger_images import ImageKey, ImageRow
    from thunderagent_core.environments.ledger_rows import EnvironmentRow, Fields, ProgramRow, SnapshotRow
    from thunderagent_core.environments.ledger_writer import Writer
    from thunderagent_core.environments.states import State


@dataclass(frozen=True, slots=True)
class Contents:
    """All that is not over: live programs, environments not GONE, snapshots, who leases which port, images we brought.

    ``leases`` maps (provider, endpoint, port) to an environment's id. ``programs`` holds the ended ones as well whose
    environments are not gone yet.
    """

    programs: Sequence[ProgramRow]
    environments: Sequence[EnvironmentRow]
    snapshots: Sequence[SnapshotRow]
    leases: Mapping[tuple[str, str, int], str]
    images: Sequence[ImageRow]


class Ledger:
    """An opened ledger. Its futures are to be awaited under ``asyncio.shield``: a change cannot be called back.

    Every method that returns a future may give LedgerError, and FencedError once another server has opened the file.

    Args:
        installation: id that this ledger was given when it was made; part of every label and handle.
        epoch: how often the ledger was opened; higher ones fence lower ones.
        writer: runs the changes.
    """

    def __init__(self, installation: str, epoch: int, writer: Writer) -> None:
        self.installation = installation
        self.epoch = epoch
        self._writer = writer

    @classmethod
    async def open(
        cls,
        path: Path,
        *,
        clock: Callable[[], float] = time.time,
        token: Callable[[int], str] = secrets.token_hex,
        history: int = 1000,
    ) -> Ledger:
        """Open the ledger at ``path``, make it where there is none, and take it over from whoever had it.

        Args:
            path: the file.
            clock: seconds since 1970.
            token: random hexadecimal digits for a number of bytes.
            history: environments that are GONE, and programs that have ended, which are remembered at most.

        Raises:
            LedgerError: it cannot be opened, is damaged, or is not ours.
        """
        writer, store = await ThreadWriter.start(lambda: Store(path, token(6), clock=clock, history=history))
        return cls(store.installation, store.epoch, writer)

    async def aclose(self) -> None:
        """Write what is under way, then close the file."""
        await self._writer.aclose()

    def handle(self, environment_id: str) -> str:
        """Return the name that an environment has outside."""
        return f"thunder-{self.installation}-{environment_id}"

    def load(self) -> asyncio.Future[Contents]:
        """Return all that is not over."""
        return self._writer.submit(lambda store: Contents(*jobs.load(store), images.load_images(store.connection)))

    def check_owner(self) -> asyncio.Future[None]:
        """Give FencedError where another server has taken over."""
        return self._writer.submit(lambda _: None)  # every transaction checks it

    def declare(
        self,
        program_id: str,
        rows: Sequence[EnvironmentRow],
        *,
        parent_id: str | None = None,
        parent_key: int | None = None,
    ) -> asyncio.Future[tuple[ProgramRow, list[EnvironmentRow]]]:
        """Remember a live program, where it is not known yet, and environments of it.

        ``parent_key``: the life of the parent; gives ParentEndedError where that is over.
        """
        return self._writer.submit(lambda store: jobs.declare(store, program_id, parent_id, parent_key, rows))

    def add(self, row: EnvironmentRow) -> asyncio.Future[EnvironmentRow]:
        """Remember an environment that belongs to no program."""
        return self._writer.submit(lambda store: jobs.add(store, row))

    def end(self, keys: Sequence[int], reason: str) -> asyncio.Future[tuple[list[ProgramRow], list[EnvironmentRow]]]:
        """Record that programs have ended, and that their environments are to be reclaimed; return what changed."""
        return self._writer.submit(lambda store: jobs.end(store, keys, reason))

    def change(
        self,
        environment_id: str,
        state: State | None = None,
        *,
        expect: State | None = None,
        leases: Mapping[int, int] | None = None,
        **fields: Unpack[Fields],
    ) -> asyncio.Future[EnvironmentRow]:
        """Change an environment's state, its fields and its port leases (host port by port inside, 0 for no lease).

        Gives StaleStateError where it is not in state ``expect``, IllegalTransitionError for a change of state that
        is none, PortLeasedError where another has one of the ports.
        """
        change = jobs.Change(environment_id, state, expect, leases, fields)
        return self._writer.submit(lambda store: jobs.change(store, change))

    def hand_out(self, warm_id: str, requested: EnvironmentRow) -> asyncio.Future[EnvironmentRow]:
        """Give a warm environment to a program in place of one that was only requested; that one is forgotten.

        Gives StaleStateError where the warm one has been given out, or either is not in the right state any more.
        """
        return self._writer.submit(lambda store: jobs.hand_out(store, warm_id, requested))

    def replace(self, environment_id: str, row: EnvironmentRow, reason: str) -> asyncio.Future[list[EnvironmentRow]]:
        """Give up an environment that was never used and request another in its place; return both.

        Gives StaleStateError where it is not PREPARING (any more), or was used.
        """
        return self._writer.submit(lambda store: jobs.replace(store, environment_id, row, reason))

    def measured(self, used: Mapping[str, int]) -> asyncio.Future[list[EnvironmentRow]]:
        """Remember the disk use of environments, in bytes by id."""
        return self._writer.submit(lambda store: jobs.measured(store, used))

    def fates(self, ids: Collection[str]) -> asyncio.Future[dict[str, State]]:
        """Return the states of those environments that are remembered."""
        return self._writer.submit(lambda store: jobs.fates(store, ids))

    def put_snapshot(self, row: SnapshotRow) -> asyncio.Future[SnapshotRow]:
        """Remember a snapshot, or its new status."""
        return self._writer.submit(lambda store: jobs.put_snapshot(store, row))

    def forget_snapshot(self, name: str) -> asyncio.Future[None]:
        """Forget a snapshot that is gone."""
        return self._writer.submit(lambda store: jobs.forget_snapshot(store, name))

    def put_aside(
        self, environment_id: str, snapshot: SnapshotRow
    ) -> asyncio.Future[tuple[EnvironmentRow, SnapshotRow]]:
        """Record that a snapshot is verified and its PAUSED environment SNAPSHOTTED in it.

        Gives StaleStateError where it is not PAUSED.
        """
        return self._writer.submit(lambda store: jobs.put_aside(store, environment_id, snapshot))

    def put_image(self, row: ImageRow) -> asyncio.Future[ImageRow]:
        """Remember an image that we bring, or what is known of it by now."""
        return self._writer.submit(lambda store: images.put_image(store, row))

    def forget_image(self, key: ImageKey) -> asyncio.Future[None]:
        """Forget an image that is gone, or turned out not to be ours."""
        return self._writer.submit(lambda store: images.forget_image(store, key))

    def images_used(self, used: Mapping[ImageKey, float]) -> asyncio.Future[None]:
        """Remember when images were last needed, in seconds since 1970."""
        return self._writer.submit(lambda store: images.images_used(store, used))
