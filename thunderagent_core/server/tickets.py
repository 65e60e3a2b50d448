"""One open request between the scheduler, which decides about it, and its handler, which waits."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from thunderagent_core.scheduling.decisions import Refuse


class Ticket:
    """Holds the latest decision about a request. Most requests are forwarded at once and never wait."""

    __slots__ = ("_future", "backend_id", "program_id", "refused", "request_id")

    def __init__(self, request_id: str, program_id: str | None) -> None:
        self.request_id = request_id
        self.program_id = program_id
        self.backend_id: str | None = None
        self.refused: Refuse | None = None
        self._future: asyncio.Future[None] | None = None

    def forward(self, backend_id: str) -> None:
        """Let the request go to ``backend_id``."""
        self.backend_id = backend_id
        self._wake()

    def refuse(self, decision: Refuse) -> None:
        """Let the request be answered with an error."""
        self.refused = decision
        self._wake()

    @property
    def decided(self) -> bool:
        """Whether there is anything to act on."""
        return self.backend_id is not None or self.refused is not None

    async def wait(self) -> None:
        """Return once a decision is there."""
        while not self.decided:
            self._future = asyncio.get_running_loop().create_future()
            try:
                await self._future
            finally:
                self._future = None

    def _wake(self) -> None:
        if self._future is not None and not self._future.done():
            self._future.set_result(None)
