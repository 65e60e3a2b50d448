"""The parts of the provider, put together; they are made ready on first use."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from thunderagent_core.environments.process.arguments import tool_options
from thunderagent_core.environments.process.binary import find_bubblewrap
from thunderagent_core.environments.process.cgroups import detect_cgroups
from thunderagent_core.environments.process.control import Control
from thunderagent_core.environments.process.deaths import Deaths
from thunderagent_core.environments.process.files import TreeTools
from thunderagent_core.environments.process.launchpad import Host, Launchpad
from thunderagent_core.environments.process.snapshots import Snapshots
from thunderagent_core.environments.process.spawner import Spawner
from thunderagent_core.environments.process.store import Store
from thunderagent_core.environments.process.waiting import in_thread

if TYPE_CHECKING:
    from pathlib import Path

    from thunderagent_core.environments.process.cgroups import Cgroups

_OVER_OWN_FILES: Final = ("--unshare-user", "--uid", "0", "--gid", "0", "--cap-add", "ALL")
"""Gives a tool all rights over the files of the user who runs it, and none over others'."""


class Workshop:
    """What all operations share.

    Args:
        installation: whose environments these are.
        root: directory of the provider.
        user: the host's user for sandboxes; None: whoever runs the server.
        cgroups: control groups; None: what the host lets us use.

    Raises:
        ProviderError: ``bubblewrap_unavailable``.
    """

    def __init__(self, *, installation: str, root: Path, user: int | None, cgroups: Cgroups | None) -> None:
        bwrap = find_bubblewrap()
        self.root = root.absolute()
        self.cgroups = cgroups if cgroups is not None else detect_cgroups(installation)
        rights = () if user is not None else _OVER_OWN_FILES
        self.tools = TreeTools((str(bwrap), *rights, *tool_options(str(self.root))))
        self.store = Store(self.root, installation, user)
        self.snapshots = Snapshots(self.root, installation, self.tools)
        self.spawner = Spawner()
        self.deaths = Deaths()
        self._user = user
        self._bwrap = bwrap
        self._lock = asyncio.Lock()
        self._is_open = False
        self._overlays: bool | None = None
        self.host: Host
        self.launchpad: Launchpad
        self.control: Control

    async def open(self) -> None:
        """Make the directories, and see whether sandboxes can be made. Does nothing the second time.

        Raises:
            ProviderError: ``bubblewrap_unavailable``, with what bubblewrap said.
        """
        async with self._lock:
            if self._is_open:
                return
            await in_thread(self.store.open)
            await in_thread(self.snapshots.open)
            status = self.root.stat()
            self.host = Host(bwrap=self._bwrap, user=self._user, mark=f"{status.st_dev:x}:{status.st_ino:x}")
            self.launchpad = Launchpad(self.spawner, self.store, self.host)
            self.control = Control(self.cgroups, self.host)
            await self.launchpad.check()
            self._is_open = True

    async def can_overlay(self) -> bool:
        """Whether an image can be had with changes over it."""
        async with self._lock:
            if self._overlays is None:
                self._overlays = await self.launchpad.can_overlay(self.root)
            return self._overlays

    async def aclose(self) -> None:
        """Let go of everything; sandboxes live on."""
        self.deaths.close()
        await self.spawner.aclose()
