"""What every part of the manager works with."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from thunderagent_core.environments.base import ProviderUnavailableError
from thunderagent_core.environments.images import ImageStore
from thunderagent_core.environments.manager.tasks import Backoff

if TYPE_CHECKING:
    import random
    from collections.abc import Callable, Mapping

    from thunderagent_core.environments.base import Place, Provider
    from thunderagent_core.environments.exec import Executor
    from thunderagent_core.environments.ledger import Ledger
    from thunderagent_core.environments.manager.hooks import Hooks
    from thunderagent_core.environments.manager.record import Record
    from thunderagent_core.environments.manager.records import Records
    from thunderagent_core.environments.manager.settings import ManagerSettings
    from thunderagent_core.environments.manager.statistics import Statistics
    from thunderagent_core.environments.manager.tasks import Tasks
    from thunderagent_core.environments.spec import EnvironmentSpec


class MakeExecutor(Protocol):
    """Returns what runs commands in an environment."""

    def __call__(self, provider: Provider, place: Place, spec: EnvironmentSpec) -> Executor:
        """Return it; nothing is started yet."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Kit:
    """Shared by the parts of one manager.

    Args:
        settings: what the operator wants.
        ledger: the durable memory.
        records: its mirror.
        providers: by name.
        hooks: runs the hooks of environments.
        statistics: what is counted.
        tasks: background work.
        make_executor: makes what runs commands.
        clock: seconds since 1970.
        token: random hexadecimal digits for a number of bytes.
        random: source of jitter.
    """

    settings: ManagerSettings
    ledger: Ledger
    records: Records
    providers: Mapping[str, Provider]
    hooks: Hooks
    statistics: Statistics
    tasks: Tasks
    make_executor: MakeExecutor
    clock: Callable[[], float]
    token: Callable[[int], str]
    random: random.Random
    destroying: dict[tuple[str, str], asyncio.Semaphore] = field(default_factory=dict)
    leaving: dict[tuple[str, str], asyncio.Event] = field(default_factory=dict)
    """Images being removed, by ``image_key``; the event is set when that has ended."""

    def provider(self, name: str) -> Provider:
        """Return a provider. Raises ProviderUnavailableError where this server does not run it (any more)."""
        try:
            return self.providers[name]
        except KeyError:
            raise ProviderUnavailableError(f"this server does not run the provider {name!r}") from None

    def image_key(self, provider: str, image: str) -> tuple[str, str]:
        """Return what is the same for all references that mean the same image."""
        store = self.providers.get(provider)
        return provider, store.image_name(image) if isinstance(store, ImageStore) else image

    async def image_settled(self, record: Record) -> None:
        """Wait while the image of an environment is being removed: halfway it would be taken for present."""
        if record.spec.image is not None:
            key = self.image_key(record.row.provider, record.spec.image)
            while (leaving := self.leaving.get(key)) is not None:
                await leaving.wait()

    def backoff(self) -> Backoff:
        """Return times to wait between repetitions."""
        return Backoff(self.settings.first_retry_s, self.settings.longest_retry_s, self.random)

    def destruction_slot(self, provider: str, endpoint: str) -> asyncio.Semaphore:
        """Return what bounds destructions at once on one endpoint; a dead endpoint does not hold up another."""
        key = provider, endpoint
        if key not in self.destroying:
            self.destroying[key] = asyncio.Semaphore(self.settings.max_reclamations)
        return self.destroying[key]

    def executor(self, record: Record) -> Executor:
        """Return what runs commands in an environment."""
        if record.executor is None:
            record.executor = self.make_executor(self.provider(record.row.provider), record.place, record.spec)
        return record.executor

    async def close_executor(self, record: Record) -> None:
        """Drop the connection to an environment that has ended, or is about to."""
        executor, record.executor = record.executor, None
        if executor is not None:
            await executor.aclose()
