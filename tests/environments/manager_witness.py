"""A provider that asks at every effect whether it may happen, by what is on disk at that moment."""

from __future__ import annotations

import sqlite3
from collections import Counter
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from manager_tools import MIB, PointedProvider

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from manager_tools import Points

    from thunderagent_core.environments.base import Place, Plan, Sighting
    from thunderagent_core.environments.scripted.world import ScriptedWorld


class Evidence:
    """What the tests know beside the ledger, and what was seen to be wrong.

    Args:
        path: the ledger.
        max_creations: at once.
        max_reclamations: at once on one endpoint.
        budget: bytes.
    """

    def __init__(self, path: Path, *, max_creations: int, max_reclamations: int, budget: int | None) -> None:
        self.path = path
        # A creation that begins anew destroys what is half made first.
        self.limits = {"create": max_creations, "destroy": max_reclamations + max_creations}
        self.budget = budget
        self.wrong: list[str] = []
        self.deleted: set[str] = set()
        """Ids of environments that their program has deleted."""
        self.owners: dict[str, int] = {}
        self.at_once: Counter[tuple[str, str]] = Counter()

    def query(self, text: str, *values: Any) -> list[Any]:
        connection = sqlite3.connect(self.path)
        try:
            return connection.execute(text, values).fetchall()
        finally:
            connection.close()

    def check(self, holds: object, text: str) -> None:
        if not holds:
            self.wrong.append(text)

    @contextmanager
    def bounded(self, operation: str, endpoint: str) -> Iterator[None]:
        """Invariant 9: so many at once and no more."""
        key = operation, endpoint if operation == "destroy" else ""
        self.at_once[key] += 1
        self.check(self.at_once[key] <= self.limits[operation], f"9: {self.at_once[key]} times {operation} at once")
        try:
            yield
        finally:
            self.at_once[key] -= 1

    def may_create(self, plan: Plan) -> None:
        """Invariants 1 and 11."""
        rows = self.query("SELECT state, present FROM environments WHERE handle = ?", plan.place.handle)
        self.check(rows in ([("preparing", 1)], [("reclaiming", 1)]), f"1: created without intent: {rows}")
        for port in filter(None, plan.ports.values()):
            leased = self.query(
                "SELECT e.handle FROM ports p JOIN environments e ON e.id = p.environment_id "
                "WHERE p.port = ? AND p.endpoint = ?",
                port,
                plan.place.endpoint,
            )
            self.check(leased == [(plan.place.handle,)], f"12: port {port} is leased to {leased}")
        if self.budget is not None:
            ((charged,),) = self.query(
                "SELECT coalesce(sum(max(disk_reserved, disk_used)), 0) FROM environments WHERE present"
            )
            self.check(charged <= self.budget + MIB, f"11: {charged} bytes of {self.budget}")

    def may_destroy(self, place: Place, world: ScriptedWorld) -> None:
        """Invariants 3 and 6."""
        rows = self.query(
            "SELECT e.id, e.state, e.used, e.snapshot, e.program_key, p.ended_at FROM environments e "
            "LEFT JOIN programs p ON p.key = e.program_key WHERE e.handle = ?",
            place.handle,
        )
        if not rows:
            self.wrong.append(f"3: destroyed without any record: {place.handle}")
            return
        ((environment_id, state, used, snapshot, program_key, ended_at),) = rows
        kept = world.snapshots.get((place.endpoint, snapshot))
        over = ended_at is not None or environment_id in self.deleted or program_key is None or not used
        fine = {
            "reclaiming": over,
            "gone": True,
            "preparing": not used or (kept is not None and kept.whole),
            "snapshotted": kept is not None and kept.whole,
            "failed": not used,
        }
        self.check(fine.get(state, False), f"3 or 6: destroyed {rows[0]}, snapshot {kept}")

    def may_snapshot(self, name: str) -> None:
        rows = self.query("SELECT status FROM snapshots WHERE name = ?", name)
        self.check(rows in ([("taking",)], [("dropping",)]), f"1: snapshot without intent: {rows}")

    def may_drop(self, name: str) -> None:
        """Never the snapshot on which an environment depends."""
        rows = self.query(
            "SELECT state FROM environments WHERE snapshot = ? AND state NOT IN ('reclaiming', 'gone')", name
        )
        self.check(not rows, f"10: dropped the snapshot of an environment that is {rows}")

    def may_freeze(self, place: Place) -> None:
        rows = self.query("SELECT state FROM environments WHERE handle = ?", place.handle)
        self.check(rows not in ([("in_use",)], [("ready",)]), "1: frozen without intent")

    def look_at_owners(self) -> None:
        """Invariant 5: whoever has an environment has it for good."""
        for environment_id, key in self.query("SELECT id, program_key FROM environments WHERE program_key IS NOT NULL"):
            self.check(self.owners.setdefault(environment_id, key) == key, f"5: {environment_id} was given out twice")


class WitnessedProvider(PointedProvider):
    """Lets nothing happen unseen."""

    def __init__(self, world: ScriptedWorld, points: Points, installation: str, evidence: Evidence) -> None:
        super().__init__(world, points, installation)
        self._evidence = evidence

    async def create(self, plan: Plan) -> Sighting:
        self._points.check_alive()
        self._evidence.may_create(plan)
        with self._evidence.bounded("create", plan.place.endpoint):
            return await super().create(plan)

    async def destroy(self, place: Place) -> None:
        self._points.check_alive()
        self._evidence.may_destroy(place, self._world)
        with self._evidence.bounded("destroy", place.endpoint):
            await super().destroy(place)

    async def snapshot(self, place: Place, name: str, labels: Mapping[str, str]) -> None:
        self._points.check_alive()
        self._evidence.may_snapshot(name)
        await super().snapshot(place, name, labels)

    async def drop_snapshot(self, endpoint: str, name: str) -> None:
        self._points.check_alive()
        self._evidence.may_drop(name)
        await super().drop_snapshot(endpoint, name)

    async def freeze(self, place: Place) -> None:
        self._points.check_alive()
        self._evidence.may_freeze(place)
        await super().freeze(place)
