"""The server on bubblewrap is killed at every point of every life-cycle operation, and another one takes over."""

from __future__ import annotations

import socket
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from kills import Forge, Trial, assert_ledger_is_empty, try_all, until
from process_bed import marked

if TYPE_CHECKING:
    from collections.abc import Iterator

FRAME = {"sandboxes", "environments", "snapshots", "trash"}


def remains(state: Path, installation: str) -> list[str]:
    """Return what is there of an installation: processes, mounts, control groups, files."""
    sign = f"thunder-{installation}"
    found = [str(path) for path in Path("/sys/fs/cgroup").glob(f"*/{sign}*")]
    found += [str(path) for path in Path("/sys/fs/cgroup").glob(f"{sign}*")]
    found += [str(path) for path in (state / "sandboxes").rglob("*") if path.name not in FRAME]
    found += [line for line in Path("/proc/self/mountinfo").read_text().splitlines() if str(state) in line]
    return found + [f"process {pid}" for pid in marked(f"{sign}-".encode())]


def free_ports(count: int) -> str:
    """Return a range of ports of which none is in use."""
    for first in range(20000, 30000, count):
        with socket.socket() as one, socket.socket() as other:
            try:
                one.bind(("127.0.0.1", first))
                other.bind(("127.0.0.1", first + count - 1))
            except OSError:
                continue
            return f"{first}-{first + count - 1}"
    raise AssertionError("no ports are free")


def assert_all_gone(state: Path) -> None:
    """Nothing is left on record, and nothing outside."""
    installation = assert_ledger_is_empty(state / "environments.sqlite")
    until(lambda: not remains(state, installation), f"nothing remains: {remains(state, installation)}")


SPECS = {
    "shell": {
        "name": "shell",
        "setup": ["echo made > made"],
        "on_ready": {"command": "echo ready > ready"},
        "on_reclaim": {"command": "echo bye"},
    },
    "other": {"name": "other", "setup": ["echo made > made"], "ports": [8000]},
    "spare": {"name": "spare", "setup": ["echo made > made"]},
}


@pytest.fixture
def forge() -> Iterator[Forge]:
    with Forge() as forge:
        yield forge


def test_killed_at_every_point(forge: Forge, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [
        "--environments",
        "process",
        "--environment-freeze-after-s",
        "0",
        "--environment-ports",
        free_ports(64),
    ]
    arguments += ["--environment-max-creations", "1", "--environment-disk-floor-bytes", "0"]
    trial = Trial(forge=forge, folder=tmp_path, specs=SPECS, arguments=arguments, remains=remains)
    began = time.monotonic()
    kills = trial.count()
    tried = try_all(trial, kills)
    with capsys.disabled():
        took_s = time.monotonic() - began
        print(f"\nbubblewrap: server killed at {tried} points in {took_s:.0f} s; nothing leaked, nothing lost")
    assert tried == len(kills) > 100
