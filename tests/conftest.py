"""What holds in every test: none is passed over, chance repeats itself, and time decides nothing."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, settings

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator

# Before any test module is imported: settings made there inherit from this profile. The same examples are tried in
# every run, wherever it takes place, and none may fail for being slow.
settings.register_profile(
    "repo",
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
settings.load_profile("repo")

# Their assertions are to tell as much as those in the tests that use them.
pytest.register_assert_rewrite(
    "contract", "contract_exec", "contract_lifecycle", "environment_server", "kills", "process_bed", "scripted_bed"
)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Count a test that is skipped, or that is expected to fail, as failed: it would look like a passed one."""
    report = yield
    if report.skipped or hasattr(report, "wasxfail"):
        report.outcome, report.longrepr = "failed", f"{item.nodeid} was passed over: {report.longrepr}"
        vars(report).pop("wasxfail", None)
    return report


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_make_collect_report(
    collector: pytest.Collector,
) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """Count a file of tests that is skipped as failed."""
    report = yield
    if report.skipped:
        report.outcome, report.longrepr = "failed", f"{collector.nodeid} was passed over: {report.longrepr}"
    return report


@pytest.fixture
def closed_port() -> Iterator[int]:
    """A port of this machine that is ours while the test runs, and at which nobody listens."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield taken.getsockname()[1]
