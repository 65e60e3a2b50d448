"""Random sequences of events: every request is forwarded, refused or withdrawn exactly once, and much else.

``machine.py`` says what may happen, ``properties.py`` what must hold after each event, ``driver.py`` which orders make
no sense. Every run ends with all waiting requests served or refused within the bound, and with a replay.
"""

from __future__ import annotations

from hypothesis import HealthCheck, Phase, settings

from .machine import Shell

TestRandomEvents = Shell.TestCase
TestRandomEvents.settings = settings(
    max_examples=150,
    stateful_step_count=50,
    deadline=None,
    # Before Python 3.12 explaining a failure takes longer than finding it.
    phases=[phase for phase in Phase if phase is not Phase.explain],
    suppress_health_check=[HealthCheck.too_slow],
)
