"""What an operator may set about environments; every number carries its unit in its name."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from thunderagent_core.environments.spec import EnvironmentSpec, Hook


def _default_creations() -> int:
    return min(8, max(2, os.cpu_count() or 2))


@dataclass(frozen=True, slots=True)
class WarmPool:
    """Keep ``size`` environments of one specification ready for whoever declares an equal one."""

    spec: EnvironmentSpec
    size: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ManagerSettings:
    """Settings of the manager. The server's configuration checks the ranges; the manager trusts them.

    Args:
        default_provider: who makes environments that name no provider.
        max_creations: environments being made at once; the default is the number of processors, from 2 to 8.
        max_reclamations: environments being destroyed at once, on each endpoint. Never waits for creations.
        max_queue: environments that may wait to be made.
        creation_timeout_s: longest time that making one may take, its set-up commands included.
        reconcile_interval_s: seconds between comparisons of the ledger with what is found outside.
        quarantine_grace_s: for how long something is kept that carries our label and stands in no record.
        disk_budget_bytes: for all environments and snapshots together, reserved or used, the larger; None: no limit.
        disk_floor_bytes: free space that creations leave on every endpoint.
        image_high_bytes: on each endpoint, images that we brought are collected above this; None: never.
        image_low_bytes: until they take no more than this; None, or more: ``image_high_bytes``.
        freeze_after_s: seconds between the pause of a program and the freezing of its environments.
        first_port: first host port of the range from which ports are leased; None: the daemon chooses ports.
        last_port: last host port of that range.
        bad_port_s: for how long a port is avoided that proved to be taken by somebody else.
        on_ready: hook of environments that have none.
        on_reclaim: hook of environments that have none.
        warm: environments kept ready.
        first_retry_s: seconds before the first repetition of an effect that failed; doubles with every further one.
        longest_retry_s: the longest such time.
        stop_grace_s: when the server stops, reclamations under way get this many seconds to end.
    """

    default_provider: str = "docker"
    max_creations: int = field(default_factory=_default_creations)
    max_reclamations: int = 8
    max_queue: int = 10_000
    creation_timeout_s: float = 300.0
    reconcile_interval_s: float = 30.0
    quarantine_grace_s: float = 600.0
    disk_budget_bytes: int | None = None
    disk_floor_bytes: int = 1 << 30
    image_high_bytes: int | None = None
    image_low_bytes: int | None = None
    freeze_after_s: float = 2.0
    first_port: int | None = None
    last_port: int = 0
    bad_port_s: float = 60.0
    on_ready: Hook | None = None
    on_reclaim: Hook | None = None
    warm: tuple[WarmPool, ...] = ()
    first_retry_s: float = 0.1
    longest_retry_s: float = 30.0
    stop_grace_s: float = 5.0
