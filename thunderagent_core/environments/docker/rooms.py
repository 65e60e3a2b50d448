"""What each daemon has left, asked of all at once."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final, NamedTuple

from thunderagent_core.environments.base import ProviderError, Room
from thunderagent_core.environments.docker.daemon import filter_text
from thunderagent_core.environments.docker.disk import free_bytes

if TYPE_CHECKING:
    from collections.abc import Sequence

    from thunderagent_core.environments.docker.daemon import Daemon
    from thunderagent_core.environments.docker.marks import Marks

UNKNOWN_DISK_BYTES: Final = 1 << 62
"""Said of a daemon on another machine, which tells nobody how much disk it has left."""
_SHORT_BYTES: Final = 2 << 30
"""Daemons with less free disk than this come last."""


class _Rated(NamedTuple):
    short: bool
    load: float
    used_bytes: int
    room: Room


async def survey_rooms(daemons: Sequence[Daemon], marks: Marks) -> list[Room]:
    """Return the daemons that answer: those short of disk last, then by containers per processor, then by free disk.

    One that hangs costs its time-out and nothing else. Raises the first error where none answers.
    """
    answers = await asyncio.gather(*(_rate(daemon, marks) for daemon in daemons), return_exceptions=True)
    rated = [answer for answer in answers if isinstance(answer, _Rated)]
    problems = [answer for answer in answers if isinstance(answer, BaseException)]
    for problem in problems:
        if not rated or not isinstance(problem, ProviderError):
            raise problem
    return [rating.room for rating in sorted(rated)]


async def _rate(daemon: Daemon, marks: Marks) -> _Rated:
    ours = filter_text(marks.search())
    info = await daemon.ask(lambda docker: docker.system.info())
    containers = await daemon.ask(lambda docker: docker.containers.list(all=True, filters=ours))
    free = await asyncio.to_thread(free_bytes, str(info["DockerRootDir"])) if daemon.local else None
    room = Room(daemon.url, UNKNOWN_DISK_BYTES if free is None else free, len(containers))
    load = info["ContainersRunning"] / max(1, info["NCPU"])
    return _Rated(room.free_disk_bytes < _SHORT_BYTES, load, -room.free_disk_bytes, room)
