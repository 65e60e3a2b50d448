"""The one way by which requests reach tool environments: checked, and with errors of the API."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from thunderagent_core.server.environment_errors import as_api_errors, disabled

if TYPE_CHECKING:
    from collections.abc import Sequence

    from thunderagent_core.environments.manager.manager import Manager
    from thunderagent_core.environments.spec import EnvironmentSpec
    from thunderagent_core.server.environment_guard import SpecGuard
    from thunderagent_core.server.environments import Environments


class EnvironmentDoor:
    """Says no where this server runs no environments, or where a specification reaches for the host.

    Args:
        environments: None: there are none.
        guard: knows what of the host may be seen.
    """

    def __init__(self, environments: Environments | None, guard: SpecGuard) -> None:
        self._environments = environments
        self._guard = guard

    @property
    def running(self) -> Environments:
        """What joins them to the scheduler. Raises ApiError where there are none."""
        if self._environments is None:
            raise disabled()
        return self._environments

    @property
    def manager(self) -> Manager:
        """Their manager. Raises ApiError where there are none."""
        return self.running.manager

    async def declare(self, program_id: str, specs: Sequence[EnvironmentSpec], parent_id: str | None = None) -> bool:
        """Remember durably what a program wants; tell whether any of it is new. Raises ApiError."""
        running = self.running
        with as_api_errors():
            self._guard.check(specs)
            return await running.declare(program_id, specs, parent_id)

    async def add(self, program_id: str, spec: EnvironmentSpec) -> bool:
        """Remember durably one more environment of a program; tell whether it is new. Raises ApiError."""
        running = self.running
        with as_api_errors():
            self._guard.check_one(spec)
            return await running.declare(program_id, [spec])

    def withdraw(self, program_id: str) -> None:
        """Take a declaration back whose program did not come into being; begins at once, waits for nothing."""
        if self._environments is not None:
            self._environments.withdraw(program_id)

    async def settled(self, program_id: str) -> None:
        """Wait until a program's end is on disk."""
        if self._environments is not None:
            await self._environments.settled(program_id)

    def summary(self, program_id: str) -> list[dict[str, Any]]:
        """Return the names and states of a program's environments."""
        if self._environments is None:
            return []
        return [{"name": view.name, "state": view.state} for view in self.manager.views(program_id)]
