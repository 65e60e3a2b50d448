"""One policy behind one protocol; the names are what ``--policy`` takes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from thunderagent_core.scheduling.policies.baselines import (
    CapPolicy,
    PassthroughPolicy,
    StickyPolicy,
    TtlPolicy,
)
from thunderagent_core.scheduling.policies.paper import PaperPolicy

if TYPE_CHECKING:
    from thunderagent_core.scheduling.policies.base import Policy
    from thunderagent_core.scheduling.settings import SchedulerSettings

POLICY_NAMES = ("paper", "passthrough", "sticky", "cap", "ttl")


def make_policy(name: str, settings: SchedulerSettings) -> Policy:
    """Build the policy called ``name``. Raises ValueError for a name that is not in POLICY_NAMES."""
    match name:
        case "paper":
            return PaperPolicy(settings)
        case "passthrough":
            return PassthroughPolicy(settings)
        case "sticky":
            return StickyPolicy(settings)
        case "cap":
            return CapPolicy(settings)
        case "ttl":
            return TtlPolicy(settings)
        case _:
            raise ValueError(f"unknown policy {name!r}; choose one of {', '.join(POLICY_NAMES)}")
