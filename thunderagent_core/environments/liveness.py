"""Evidence that an environment has ended."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from thunderagent_core.environments.base import Liveness

if TYPE_CHECKING:
    from thunderagent_core.environments.base import Place, Provider


async def has_ended(provider: Provider, place: Place, *, within_s: float = 0.0) -> bool:
    """Whether the provider is certain that nothing runs in it any more, or becomes so within a time in seconds.

    A daemon may learn later than we do that the processes of an environment are dead.
    """
    loop = asyncio.get_running_loop()
    deadline = loop.time() + within_s
    while True:
        sighting = await provider.look(place)
        if sighting.liveness in {Liveness.STOPPED, Liveness.GONE}:
            return True
        if loop.time() >= deadline:
            return False
        await asyncio.sleep(0.1)
