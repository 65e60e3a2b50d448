from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from .driver import Driver

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


@pytest.fixture
def drive() -> Iterator[Callable[..., Driver]]:
    """Build drivers; each of them must be consistent, and its trace replayable, when the test ends."""
    drivers: list[Driver] = []

    def build(policy: str = "paper", **settings: object) -> Driver:
        drivers.append(Driver(policy, **settings))
        return drivers[-1]

    yield build
    for driver in drivers:
        driver.finish()


@pytest.fixture
def shell(drive: Callable[..., Driver]) -> Driver:
    """The paper's policy with the settings' defaults over one pool of 10,000 tokens."""
    driver = drive()
    driver.backend("a", 10_000)
    return driver
