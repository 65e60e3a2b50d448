"""Which images are needed: by reference count over everything that is, or is to be, made from them."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from thunderagent_core.environments.manager.records import Records
    from thunderagent_core.environments.manager.settings import ManagerSettings


def image_references(
    records: Records, settings: ManagerSettings, key: Callable[[str, str], tuple[str, str]]
) -> Counter[tuple[str, str]]:
    """Return how often each image is needed, by provider and name; one that is not in it may go.

    Counted are environments in every state but GONE, so that queued and snapshotted ones keep their image, and the
    specifications of warm pools. ``key``: turns a provider and a reference into what is counted.
    """
    references: Counter[tuple[str, str]] = Counter()
    for record in records.environments.values():
        if record.spec.image is not None:
            references[key(record.row.provider, record.spec.image)] += 1
    for pool in settings.warm:
        if pool.spec.image is not None:
            references[key(pool.spec.provider or settings.default_provider, pool.spec.image)] += pool.size
    return references
