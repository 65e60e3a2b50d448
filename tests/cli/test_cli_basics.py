"""The command line as such: help, version, what it costs to start."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import fields

import pytest
from cli_tools import clean_environment, cli, command, words

from thunderagent_core import __version__
from thunderagent_core.config.model import settings
from thunderagent_core.engines.simulated.settings import EngineSettings

COMMANDS = ["serve", "programs", "release", "backends", "events", "replay", "engine", "demo"]


def test_version():
    result = cli("--version")
    assert (result.exit_code, result.stdout) == (0, f"thunderagent {__version__}\n")


def test_as_a_module():
    done = subprocess.run(command("--version"), capture_output=True, text=True, check=True, env=clean_environment())
    assert done.stdout == f"thunderagent {__version__}\n"


def test_help_lists_all_commands():
    result = cli("--help")
    assert result.exit_code == 0
    listed = words(result.stdout)
    assert [name for name in COMMANDS if f" {name} " in listed] == COMMANDS
    assert words(cli().stdout) == listed


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help_with_an_example(name):
    result = cli(name, "--help")
    assert result.exit_code == 0
    assert "Example" in result.stdout
    assert f"thunderagent {name}" in words(result.stdout)


def test_serve_describes_every_setting():
    text = words(cli("serve", "--help").stdout)
    for about in settings().values():
        assert about.flag in text
        assert about.text in text


def test_engine_describes_every_option():
    text = words(cli("engine", "--help").stdout)
    for field in fields(EngineSettings):
        assert "--" + field.name.replace("_", "-") in text
        assert EngineSettings.describe()[field.name] in text


def test_a_mistyped_option_is_refused_with_the_nearest():
    result = cli("serve", "--prot", "1")
    assert result.exit_code == 2
    assert "--port" in result.stderr


def test_help_loads_neither_server_nor_client():
    code = (
        "import sys; import thunderagent_core.cli; "
        "print([m for m in ('httpx', 'uvloop', 'zmq', 'httptools', 'rich.table', 'thunderagent_core.server', "
        "'thunderagent_core.transport', 'thunderagent_core.client') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
