"""The engine as a process of its own, and its settings."""

from __future__ import annotations

import re
import signal
import subprocess
import sys

import httpx
import pytest

from thunderagent_core.engines.simulated.settings import EngineSettings

PROGRAM = """
from thunderagent_core.engines.simulated.engine import run
from thunderagent_core.engines.simulated.settings import EngineSettings
run(EngineSettings(port=0))
"""


def test_it_says_that_it_is_simulated_and_ends_when_told():
    with subprocess.Popen([sys.executable, "-c", PROGRAM], stdout=subprocess.PIPE, text=True) as process:
        first = process.stdout.readline()
        assert "SIMULATED engine" in first
        url = re.search(r"http://127\.0\.0\.1:\d+", first)[0]
        assert httpx.get(f"{url}/health", timeout=60).status_code == 200
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=60) == 0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"port": 70000}, "port: 70000 was given, allowed is 0 to 65535"),
        ({"preset": "h200"}, "preset: 'h200' was given, allowed is smollm2-cpu or h100-moe"),
        ({"speed": 0}, "speed"),
        ({"model": ""}, "model"),
        ({"base_ms": -1}, "base_ms"),
        ({"reply_tokens": 0}, "reply_tokens"),
        ({"kv_events_replay_endpoint": "tcp://*:1"}, "nothing without kv_events_endpoint"),
        ({"max_model_len": 20000}, "max_model_len"),
        ({"num_blocks": 1}, "max_model_len"),
    ],
)
def test_impossible_settings_are_refused(changes, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        EngineSettings(**changes)


def test_every_option_is_described():
    described = EngineSettings.describe()
    assert described.keys() == set(EngineSettings.__dataclass_fields__)
    assert all(text.endswith(".") and "\n" not in text for text in described.values())


def test_coefficients_replace_the_presets_own():
    coefficients = EngineSettings(preset="h100-moe", decode_ms_per_sequence=0.25).coefficients
    assert (coefficients.base_ms, coefficients.decode_ms_per_sequence) == (46.0, 0.25)


def test_a_small_pool_makes_a_small_context():
    assert EngineSettings(num_blocks=11).limits.max_model_len == 160
    assert EngineSettings().limits.max_model_len == 8192
