"""``thunderagent demo``, end to end, and what it leaves behind: nothing."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from contextlib import suppress
from pathlib import Path

import pytest
from cli_tools import PATIENT_S, clean_environment, cli, command, running

from thunderagent_core.config import ServerConfig
from thunderagent_core.config.model import settings
from thunderagent_core.config.rules import EngineUrl
from thunderagent_core.demo.comparison import TIMES

SMALL = ["--programs", "6", "--turns", "3", "--tool-s", "0.5", "--pool-tokens", "4096", "--speed", "25"]


def children_of(pid):
    """Process ids of a process's children; those of a thread that has just ended are its process's by now."""
    children = []
    with suppress(FileNotFoundError, ProcessLookupError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            with suppress(FileNotFoundError, ProcessLookupError):
                children += map(int, (task / "children").read_text().split())
    return children


def alive(pid):
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"


def wait_until(condition):
    deadline = time.monotonic() + PATIENT_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_two_policies_are_compared():
    env = clean_environment(THUNDERAGENT_POLICY="nonsense")  # settings of another server do not matter here
    done = subprocess.run(command("demo", *SMALL, "--json"), capture_output=True, text=True, env=env, check=False)
    assert done.returncode == 0, done.stderr
    assert "SIMULATED" in done.stderr
    result = json.loads(done.stdout)
    assert (result["simulated"], result["speed"]) == (True, 25.0)
    assert [arm["policy"] for arm in result["arms"]] == ["passthrough", "paper"]
    for arm in result["arms"]:
        assert (arm["steps"], arm["requests"], arm["failed"], arm["errors"]) == (18, 18, 0, [])
        assert arm["prompt_tokens"] == arm["cached_tokens"] + arm["recomputed_tokens"]
        assert 0 < arm["hit_rate"] < 1
        assert arm["steps_per_min"] > 0
    first, second = result["arms"]
    assert first["prompt_tokens"] == second["prompt_tokens"]
    assert first["pauses"] == 0


def test_the_table_on_an_engine_of_ones_own(engine_url):
    arguments = ["--backend", engine_url, "--programs", "2", "--turns", "2", "--tool-s", "0", "--policy", "sticky"]
    done = subprocess.run(
        command("demo", *arguments), capture_output=True, text=True, env=clean_environment(), check=False
    )
    assert done.returncode == 0, done.stderr
    assert f"on the engine at {engine_url}" in done.stderr
    rows = {line[:20].strip(): line[20:].split() for line in done.stdout.splitlines() if line.strip()}
    assert rows.pop("") == ["sticky"]
    assert list(rows) == [
        "steps/min",
        "hit rate",
        "recomputed tokens",
        "turn latency p50, s",
        "turn latency p99, s",
    ]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_the_children_end_with_their_parent(number):
    with running("demo", "--turns", "1000") as demo:
        wait_until(lambda: len(children_of(demo.popen.pid)) == 2)
        children = children_of(demo.popen.pid)
        os.kill(demo.popen.pid, number)
        status = demo.popen.wait(PATIENT_S)
        wait_until(lambda: not any(map(alive, children)))
    assert status == (130 if number is signal.SIGINT else -number)


def test_what_the_demo_speeds_up_are_the_servers_defaults():
    flags = {about.flag: name for name, about in settings().items()}
    assert {flag: getattr(ServerConfig(), flags[flag]) for flag in TIMES} == TIMES


def test_an_engine_that_is_not_there_is_one_line(closed_port):
    result = cli("demo", "--backend", f"http://127.0.0.1:{closed_port}")
    assert result.exit_code == 1
    assert result.stderr.splitlines()[-1].startswith(f"thunderagent: http://127.0.0.1:{closed_port}: ")


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--policy", "fifo"], "--policy: got 'fifo', allowed: one of paper, passthrough, sticky, cap, ttl"),
        (["--speed", "0"], "--speed: got 0.0, allowed: a number, above 0"),
        (["--backend", "gpu1:8000"], f"--backend: got 'gpu1:8000', allowed: {EngineUrl().allowed}"),
        (
            ["--speed", "2", "--backend", "http://x"],
            "--pool-tokens and --speed are for the simulated engine, which --backend replaces",
        ),
    ],
)
def test_impossible_options_are_one_line(arguments, text):
    result = cli("demo", *arguments)
    assert (result.exit_code, result.stderr) == (2, f"thunderagent: {text}\n")
