"""What each kind of setting takes and refuses."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from thunderagent_core.config import ConfigError, ServerConfig

REFUSED = {
    "host": ["", "a b", "hö", 1],
    "port": [-1, 65536, 1.0, "1", None],
    "backends": ["http://a", ["ftp://a"], ["http://"], ["http://a/v1"], ["http://a?x"], ["http://u@a"], ["http://a:x"]],
    "policy": ["fifo", "", None],
    "tick_s": [0, -1, math.inf, math.nan, "1", None],
    "high_watermark": [0, 4.1],
    "low_watermark": [0, -1],
    "decay_base": [0.9],
    "decay_interval_s": [0],
    "growth_reserve_tokens": [-1, 0.5],
    "max_wait_s": [0],
    "idle_lease_s": [0],
    "interrupt_lease_s": [0],
    "home_window_s": [-0.1],
    "discount_shared_prefix": [1, "true", None],
    "cap_programs": [0],
    "ttl_s": [-1],
    "capacity_tokens": [0, 1.5],
    "backend_api_key": ["", "a b", "ü"],
    "poll_interval_s": [0],
    "poll_timeout_s": [0],
    "lost_after_polls": [0],
    "startup_wait_s": [-1],
    "response_timeout_s": [0, -1, math.inf],
    "max_body_bytes": [0],
    "api_keys": ["key", [""], ["a", "a"]],
    "shutdown_grace_s": [-1],
    "trace": ["/", "/no/such/directory/trace", "", 1],
    "log_level": ["trace"],
    "history_programs": [-1],
    "prepare_ahead": [-1, 1.5],
    "environments": ["podman", "", True],
    "state_dir": ["/etc/passwd", "", 1],
    "docker_hosts": ["unix:///a", ["http://a:1"], ["tcp://a"], ["unix://a/b"], ["tcp://a:1/x"]],
    "environment_mount_roots": ["/", ["/no/such/directory"], ["/etc/passwd"]],
    "warm_pools": ["/", "/no/such/file"],
    "environment_max_creations": [0],
    "environment_creation_timeout_s": [0],
    "environment_freeze_after_s": [-1],
    "environment_disk_budget_bytes": [0],
    "environment_disk_floor_bytes": [-1],
    "environment_image_high_bytes": [-1],
    "environment_image_low_bytes": [-1],
    "environment_ports": ["20000", "20001-20000", "0-10", "1-65536", 5],
    "environment_quarantine_grace_s": [-1],
    "environment_reconcile_interval_s": [0],
}


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in REFUSED.items() for value in values])
def test_refused(name, value):
    with pytest.raises(ConfigError) as caught:
        ServerConfig(**{name: value})
    assert caught.value.key == name
    assert str(caught.value).startswith(f"{name}: ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "value", "stored"),
    [
        ("high_watermark", 4, 4.0),
        ("decay_base", 1, 1.0),
        ("home_window_s", 0, 0.0),
        ("backends", ["http://[::1]:8000/engine/"], ("http://[::1]:8000/engine",)),
        ("backends", (), ()),
        ("trace", "trace.jsonl", Path("trace.jsonl")),
        ("capacity_tokens", None, None),
        ("state_dir", "/srv/x", Path("/srv/x")),
        ("docker_hosts", ["unix:///var/run/docker.sock", "tcp://h:1/"], ("unix:///var/run/docker.sock", "tcp://h:1")),
        ("environment_mount_roots", ["/etc"], (Path("/etc"),)),
        ("environment_ports", "20000-20000", "20000-20000"),
    ],
)
def test_taken(name, value, stored):
    taken = getattr(ServerConfig(**{name: value}), name)
    assert taken == stored
    assert type(taken) is type(stored)
