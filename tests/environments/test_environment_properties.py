"""Random sequences of everything that can happen to environments keep all fifteen invariants."""

from __future__ import annotations

from hypothesis import HealthCheck, Phase, settings
from manager_machine import Environments

TestEnvironments = Environments.TestCase
TestEnvironments.settings = settings(
    max_examples=200,
    stateful_step_count=40,
    deadline=None,
    database=None,
    phases=[Phase.generate],  # shrinking takes minutes; switch it on by hand
    suppress_health_check=list(HealthCheck),
    print_blob=True,
)
