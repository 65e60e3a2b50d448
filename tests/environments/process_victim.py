"""A server that is killed at a step of what it does: ``process_victim.py ROOT INSTALLATION OPERATION STEP``.

It prints ``begun`` once it comes to the operation, and ``done STEPS`` where it comes to the end of it.
"""

from __future__ import annotations

import asyncio
import inspect
import itertools
import os
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parent.parent.parent)]

from process_bed import Bed  # noqa: E402 - found by the path above

from thunderagent_core.environments.process import files, identity, making, snapshots, store  # noqa: E402
from thunderagent_core.environments.process.cgroups import Cgroups  # noqa: E402
from thunderagent_core.environments.process.control import Control  # noqa: E402
from thunderagent_core.environments.process.launchpad import Launchpad  # noqa: E402
from thunderagent_core.environments.process.spawner import Spawner  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import Callable

STEPS = [
    (files, ["write_whole", "sync_directory"]),
    (store, ["write_whole", "sync_directory"]),
    (snapshots, ["write_whole", "sync_directory", "_digest"]),
    (making, ["write_own_files"]),
    (store.Store, ["begin", "write", "clear_layer", "discard"]),
    (snapshots.Snapshots, ["_begin", "_complete"]),
    (files.TreeTools, ["pack", "unpack", "remove", "sync"]),
    (Cgroups, ["make", "remove", "set_frozen"]),
    (Control, ["end", "freeze", "thaw", "limit", "remove_groups"]),
    (Spawner, ["launch"]),
    (Launchpad, ["_options", "_init", "_is_ready"]),
    (identity, ["send_signal"]),
    (Path, ["mkdir", "rename"]),
]


class Fate:
    """Counts steps, and ends the process at one of them."""

    def __init__(self, last: int) -> None:
        self._last = last
        self.steps: itertools.count[int] | None = None

    def step(self) -> None:
        if self.steps is not None and next(self.steps) == self._last:
            os.kill(os.getpid(), signal.SIGKILL)

    def surround(self, owner: Any, name: str) -> None:
        """Let there be a step before and after a function."""
        real: Callable[..., Any] = getattr(owner, name)

        async def waiting(*arguments: Any, **options: Any) -> Any:
            self.step()
            result = await real(*arguments, **options)
            self.step()
            return result

        def direct(*arguments: Any, **options: Any) -> Any:
            self.step()
            result = real(*arguments, **options)
            self.step()
            return result

        setattr(owner, name, waiting if inspect.iscoroutinefunction(real) else direct)


def say(words: str) -> None:
    sys.stdout.write(words + "\n")
    sys.stdout.flush()


async def main(root: Path, installation: str, what: str, last: int) -> None:
    bed = Bed(root=root, installation=installation)
    fate = Fate(last)
    for owner, names in STEPS:
        for name in names:
            fate.surround(owner, name)
    await bed.provider.rooms()
    say("begun")
    fate.steps = itertools.count()
    if what == "create":
        await bed.create()
    elif what == "start":
        await bed.provider.start(bed.place())
    elif what == "restore":
        await bed.create(snapshot="s1")
    elif what == "snapshot":
        await bed.provider.snapshot(bed.place(), "s1", bed.labels())
    elif what == "freeze":
        await bed.provider.freeze(bed.place())
        await bed.provider.thaw(bed.place())
    elif what == "destroy":
        await bed.provider.destroy(bed.place())
    elif what == "drop":
        await bed.provider.drop_snapshot("", "s1")
    say(f"done {next(fate.steps)}")
    await bed.close()


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), sys.argv[2], sys.argv[3], int(sys.argv[4])))
