"""Brings images, one at a time of each name, before the eyes of a witness."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, TypeVar
from weakref import WeakValueDictionary

from thunderagent_core.environments.base import ProviderError, ProviderUnavailableError
from thunderagent_core.environments.docker import images
from thunderagent_core.environments.docker.references import image_name
from thunderagent_core.environments.images import StoredImage

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping
    from pathlib import Path

    from thunderagent_core.environments.docker.daemon import Daemon
    from thunderagent_core.environments.images import PullWitness

_T = TypeVar("_T")


class Bringing:
    """Pulls and builds images.

    Args:
        timeout_s: longest time for a pull or a build, in seconds.
        on_progress: told how far they are.
    """

    def __init__(self, *, timeout_s: float, on_progress: Callable[[images.Progress], None] | None) -> None:
        self._timeout_s = timeout_s
        self._on_progress = on_progress
        self._turns: WeakValueDictionary[tuple[str, str], asyncio.Lock] = WeakValueDictionary()
        self.witness: PullWitness | None = None

    async def ensure(self, daemon: Daemon, reference: str) -> dict[str, Any]:
        """Return the description of an image, pulling it where it is absent. Raises as ``images.ensure_image``."""
        found = await images.find_image(daemon, reference)
        if found is not None:
            return found
        async with self._turn(daemon, reference):
            found = await images.find_image(daemon, reference)  # another may have brought it meanwhile
            if found is not None:
                return found
            return await self._before_witness(
                daemon,
                reference,
                lambda: images.ensure_image(
                    daemon, reference, timeout_s=self._timeout_s, on_progress=self._on_progress
                ),
            )

    async def pull(self, daemon: Daemon, reference: str) -> None:
        """Pull an image, or find out that it is current. Raises as ``images.pull_image``."""
        async with self._turn(daemon, reference):
            await self._before_witness(
                daemon,
                reference,
                lambda: images.pull_image(daemon, reference, timeout_s=self._timeout_s, on_progress=self._on_progress),
            )

    async def build(
        self, daemon: Daemon, context: Path, *, tag: str, labels: Mapping[str, str], dockerfile: str
    ) -> str:
        """Build an image and return its id. Raises as ``images.build_image``."""
        async with self._turn(daemon, tag):
            return await self._before_witness(
                daemon,
                tag,
                lambda: images.build_image(
                    daemon,
                    context,
                    tag=tag,
                    labels=labels,
                    dockerfile=dockerfile,
                    timeout_s=self._timeout_s,
                    on_progress=self._on_progress,
                ),
            )

    def _turn(self, daemon: Daemon, reference: str) -> asyncio.Lock:
        return self._turns.setdefault((daemon.url, image_name(reference)), asyncio.Lock())

    async def _before_witness(self, daemon: Daemon, reference: str, bring: Callable[[], Awaitable[_T]]) -> _T:
        name, witness = image_name(reference), self.witness
        if witness is None:
            return await bring()
        absent = await images.find_image(daemon, reference) is None
        ours = await witness.pulling(daemon.url, name, absent=absent)
        try:
            brought = await bring()
        except ProviderUnavailableError:
            raise  # it may have come
        except ProviderError:
            if absent:
                await witness.pulled(daemon.url, name, None)
            raise
        if ours:
            await witness.pulled(daemon.url, name, await find_stored(daemon, reference))
        return brought


async def find_stored(daemon: Daemon, reference: str) -> StoredImage | None:
    """Return what lies under a name. Raises as ``images.find_image``."""
    found = await images.find_image(daemon, reference)
    return None if found is None else StoredImage(str(found["Id"]), int(found.get("Size") or 0))
