"""Regression tests for what others got wrong, as far as it concerns the command line."""

from __future__ import annotations

import pytest
from cli_tools import cli


@pytest.mark.parametrize("where", ["file", "environment", "command line"])
def test_fault_11_unknown_options_fail(tmp_path, where):
    """Silent configuration: an option that nobody knows, or a value that nobody understands, starts nothing."""
    file = tmp_path / "settings.toml"
    file.write_text("tick_sec = 2\n" if where == "file" else "")
    variables = {"THUNDERAGENT_TICK_SEC": "2"} if where == "environment" else {}
    options = ["--tick-sec", "2"] if where == "command line" else []
    result = cli("serve", "--port", "0", "--config", file, *options, **variables)
    assert result.exit_code == 2
    assert result.stdout == ""
    name = {"file": "tick_sec", "environment": "THUNDERAGENT_TICK_SEC", "command line": "--tick-sec"}[where]
    assert name in result.stderr
    assert "tick" in result.stderr.replace(name, "").lower(), "the nearest known one is named"


@pytest.mark.parametrize("where", ["file", "environment", "command line"])
def test_fault_11_values_that_make_no_sense_fail(tmp_path, where):
    file = tmp_path / "settings.yaml"
    file.write_text("tick_s: soon\n" if where == "file" else "")
    variables = {"THUNDERAGENT_TICK_S": "soon"} if where == "environment" else {}
    options = ["--tick-s", "soon"] if where == "command line" else []
    result = cli("serve", "--port", "0", "--config", file, *options, **variables)
    assert (result.exit_code, result.stdout) == (2, "")
    assert "got 'soon', allowed: a number, above 0" in result.stderr


def test_a_variable_of_the_tests_starts_all_the_same():
    """It stops at a setting that is wrong, not at the variable that is none."""
    result = cli("serve", "--port", "x", THUNDERAGENT_CACHE="somewhere")
    assert "THUNDERAGENT_CACHE" not in result.stderr
    assert "port (from --port)" in result.stderr
