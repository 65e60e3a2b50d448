"""``thunderagent engine``: it says what it is, and what is wrong with its options."""

from __future__ import annotations

import httpx
import pytest
from cli_tools import SIMULATES, cli, running


def test_it_says_that_it_is_simulated_and_takes_its_options():
    with running("engine", "--port", "0", "--model", "tiny", "--num-blocks", "65", "--block-tokens", "32") as engine:
        url = engine.wait_for(SIMULATES)
        assert httpx.get(f"{url}/v1/models", timeout=60).json()["data"][0]["id"] == "tiny"
        assert engine.end() == 0
    assert "SIMULATED" in engine.output
    assert "65 blocks of 32 tokens" in engine.output


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["--speed", "0"], "speed: 0.0 was given, allowed is "),
        (["--preset", "b200"], "preset: 'b200' was given, allowed is "),
        (["--script", "none.toml"], "none.toml: "),
    ],
)
def test_impossible_options_are_one_line(arguments, line):
    result = cli("engine", *arguments)
    assert (result.exit_code, result.stdout, result.stderr.count("\n")) == (2, "", 1)
    assert result.stderr.startswith(f"thunderagent: {line}")


def test_a_value_of_the_wrong_kind_is_refused():
    assert cli("engine", "--port", "many").exit_code == 2
