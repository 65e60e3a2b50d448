"""What docs/simulated-engine.md shows is true."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import msgspec
import pytest

from thunderagent_core.engines.simulated.faults import Faults
from thunderagent_core.engines.simulated.script import parse_script
from thunderagent_core.engines.simulated.settings import EngineSettings
from thunderagent_core.engines.simulated.timing import presets

TEXT = (Path(__file__).parents[2] / "docs" / "simulated-engine.md").read_text()


def block(language):
    return re.search(rf"```{language}\n(.*?)```", TEXT, re.DOTALL)[1]


def section(title):
    return re.search(rf"^## {title}\n(.*?)(?=^## |\Z)", TEXT, re.DOTALL | re.MULTILINE)[1]


def test_the_python_example_runs():
    done = subprocess.run([sys.executable, "-c", block("python")], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[0].startswith("Simulated: ")
    assert done.stdout.splitlines()[1] == "12"


def test_the_script_is_read():
    script = parse_script(tomllib.loads(block("toml")), "docs")
    assert [len(rule.replies) for rule in script.rules] == [3, 1, 1]


def test_all_options_and_faults_are_listed():
    assert EngineSettings.describe().keys() <= set(re.findall(r"`(\w+)`", section("Options")))
    assert {field.name for field in msgspec.structs.fields(Faults)} <= set(re.findall(r"`(\w+)`", section("Accidents")))


@pytest.mark.parametrize("name", presets())
def test_the_presets_are_those_of_the_table(name):
    row = re.search(rf"^\| `{name}` \|(.*)\|$", section("Time"), re.MULTILINE)[1]
    figures = [float(cell) for cell in row.split("|")[:4]]
    coefficients = presets()[name]
    assert figures == [
        coefficients.base_ms,
        coefficients.prefill_ms_per_1k_tokens,
        coefficients.decode_ms_per_sequence,
        coefficients.attention_ms_per_million_pairs,
    ]
