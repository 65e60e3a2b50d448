"""Notices that a sandbox has ended without our doing."""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING

from thunderagent_core.environments.base import Place
from thunderagent_core.environments.process.identity import open_process

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from thunderagent_core.environments.process.identity import Identity


class Deaths:
    """Watches the first process of each sandbox that it was told of. All must happen in one event loop."""

    def __init__(self) -> None:
        self._watched: dict[str, tuple[Identity, int]] = {}
        self._ended: dict[str, None] = {}
        self._news = asyncio.Event()
        self._closed = False

    def watch(self, handle: str, init: Identity) -> None:
        """Watch a sandbox. Idempotent; one that has ended already is left to whoever looks."""
        if self._closed or self._watched.get(handle, (None, 0))[0] == init:
            return
        self.forget(handle)
        descriptor = open_process(init)
        if descriptor is not None:
            self._watched[handle] = (init, descriptor)
            asyncio.get_running_loop().add_reader(descriptor, self._end, handle)

    def forget(self, handle: str) -> None:
        """Stop watching a sandbox, whose end is no news."""
        self._ended.pop(handle, None)
        if handle in self._watched:
            descriptor = self._watched.pop(handle)[1]
            asyncio.get_running_loop().remove_reader(descriptor)
            os.close(descriptor)

    async def follow(self) -> AsyncIterator[Place]:
        """Yield the places of sandboxes that end, until this is closed."""
        while not self._closed:
            while self._ended:
                handle = next(iter(self._ended))
                del self._ended[handle]
                yield Place("", handle)
            await self._news.wait()
            self._news.clear()

    def close(self) -> None:
        """Stop watching."""
        self._closed = True
        for handle in list(self._watched):
            self.forget(handle)
        self._news.set()

    def _end(self, handle: str) -> None:
        self.forget(handle)
        self._ended[handle] = None
        self._news.set()
