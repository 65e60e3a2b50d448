"""What is counted for metrics. Everything that can be read off the records is not counted but read off."""

from __future__ import annotations

from collections import Counter, deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from thunderagent_core.environments.manager.disk import DiskUse

_SAMPLES = 4096


class Times:
    """Durations in seconds: how many there were, their sum, and the latest of them."""

    __slots__ = ("_latest", "count", "total_s")

    def __init__(self) -> None:
        self._latest: deque[float] = deque(maxlen=_SAMPLES)
        self.count = 0
        self.total_s = 0.0

    def append(self, seconds: float) -> None:
        """Take one in."""
        self._latest.append(seconds)
        self.count += 1
        self.total_s += seconds

    def __iter__(self) -> Iterator[float]:
        return iter(self._latest)

    def __len__(self) -> int:
        return len(self._latest)


@dataclass(slots=True, eq=False)
class Statistics:
    """Counts since the start, and the latest samples.

    Args:
        start_s: how long making took, in seconds, from leaving the queue until READY.
        wait_s: how long programs waited at first use, in seconds; 0 where it was ready by then.
        reclaim_s: from the decision to reclaim until nothing was left, in seconds.
        made: environments made ready.
        failed: attempts that failed, by code.
        reclaimed: environments that are GONE.
        quarantined: things found with our label that no record knew.
        lost: environments that were in use and are gone.
        handed_out: warm environments given to programs.
        frozen: environments frozen.
        put_aside: environments dropped in favour of their snapshot.
        brought_back: environments made again from their snapshot.
        wanted: environments that their program has asked for.
        hidden: those of them that were ready by then.
        images_brought: images pulled or built.
        images_removed: images collected.
    """

    start_s: Times = field(default_factory=Times)
    wait_s: Times = field(default_factory=Times)
    reclaim_s: Times = field(default_factory=Times)
    made: int = 0
    failed: Counter[str] = field(default_factory=Counter)
    reclaimed: int = 0
    quarantined: int = 0
    lost: int = 0
    handed_out: int = 0
    frozen: int = 0
    put_aside: int = 0
    brought_back: int = 0
    wanted: int = 0
    hidden: int = 0
    images_brought: int = 0
    images_removed: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """The manager at one moment, for metrics.

    Args:
        states: environments in each state.
        queued: environments that wait to be made.
        creating: environments being made.
        reclaiming: environments being taken back.
        disk: bytes reserved, used and charged.
        disk_budget_bytes: None: no limit.
        free_disk_bytes: by provider and endpoint, as last seen.
        images: images that we brought and that are still there.
        image_bytes: what they take together.
        ports_leased: ports out of the range.
        ports_in_range: size of the range; 0: the daemon chooses.
        counts: what was counted since the start.
    """

    states: Mapping[str, int]
    queued: int
    creating: int
    reclaiming: int
    disk: DiskUse
    disk_budget_bytes: int | None
    free_disk_bytes: Mapping[tuple[str, str], int]
    images: int
    image_bytes: int
    ports_leased: int
    ports_in_range: int
    counts: Statistics
