"""Looking at every endpoint that answers: what is free there, and what is there of ours."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING

from thunderagent_core.environments.base import ProviderError

if TYPE_CHECKING:
    from thunderagent_core.environments.base import Found
    from thunderagent_core.environments.manager.kit import Kit
    from thunderagent_core.environments.manager.placement import Placement

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Survey:
    """What one endpoint holds of ours."""

    provider: str
    endpoint: str
    found: tuple[Found, ...]


class Surveyor:
    """Surveys endpoints.

    Args:
        kit: shared.
        placement: is told what is free.
    """

    def __init__(self, kit: Kit, placement: Placement) -> None:
        self._kit = kit
        self._placement = placement

    async def survey(self) -> list[Survey]:
        """Return what is found on every endpoint that answers."""
        surveys = []
        for name, provider in self._kit.providers.items():
            try:
                rooms = await provider.rooms()
            except ProviderError as error:
                _LOG.warning("%s cannot be surveyed: %s", name, error)
                continue
            self._placement.see(name, rooms)
            found = await asyncio.gather(*(self._survey(name, room.endpoint) for room in rooms))
            surveys += [survey for survey in found if survey is not None]
        return surveys

    async def _survey(self, name: str, endpoint: str) -> Survey | None:
        try:
            return Survey(name, endpoint, tuple(await self._kit.providers[name].survey(endpoint)))
        except ProviderError as error:
            _LOG.warning("%s %s cannot be surveyed: %s", name, endpoint, error)
            return None
