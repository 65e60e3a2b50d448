"""``thunderagent serve``: what it says when it cannot start, and that it starts and stops."""

from __future__ import annotations

import json
import signal
import socket

import pytest
from cli_tools import LISTENS, cli, running

from thunderagent_core.client import Client


@pytest.mark.parametrize(
    ("arguments", "variables", "line"),
    [
        (["--port", "http"], {}, "port (from --port): got 'http', allowed: a whole number, from 0 to 65535"),
        ([], {"THUNDERAGENT_TICK_S": "0"}, "tick_s (from THUNDERAGENT_TICK_S): got '0', allowed: a number, above 0"),
        (
            [],
            {"THUNDERAGENT_POLICI": "paper"},
            "unknown setting THUNDERAGENT_POLICI (from the environment); the nearest known one is THUNDERAGENT_POLICY",
        ),
        (
            ["--policy", "fifo"],
            {},
            "policy (from --policy): got 'fifo', allowed: one of paper, passthrough, sticky, cap, ttl",
        ),
        (
            ["--config", "none.toml"],
            {},
            "--config: got 'none.toml', allowed: a file that can be read (No such file or directory)",
        ),
    ],
)
def test_a_bad_configuration_is_one_line_and_nothing_starts(arguments, variables, line):
    result = cli("serve", *arguments, **variables)
    assert (result.exit_code, result.stderr, result.stdout) == (2, f"thunderagent: {line}\n", "")


def test_a_taken_port_is_one_line():
    with socket.create_server(("127.0.0.1", 0)) as taken, running("serve", "--port", taken.getsockname()[1]) as server:
        assert server.join() == 2
        last = server.output.splitlines()[-1]
    assert last.startswith("thunderagent: cannot listen on 127.0.0.1:")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_serves_until_it_is_told_to_stop(engine_url, tmp_path, number):
    file = tmp_path / "settings.toml"
    file.write_text(f'backends = ["{engine_url}"]\nport = 1\nstartup_wait_s = 120\napi_keys = ["k"]\n')
    trace = tmp_path / "trace.jsonl"
    with running("serve", "--config", file, "--port", "0", "--trace", trace, THUNDERAGENT_POLICY="sticky") as server:
        url = server.wait_for(LISTENS)
        with Client(url, "k") as client, client.program("p") as program:
            assert client.ready()
            answer = program.chat(model="simulated", messages=[{"role": "user", "content": "hi"}], max_tokens=4)
            assert answer["usage"]["completion_tokens"] == 4
        assert server.end(number) == 0
    assert "sticky policy" in server.output
    assert json.loads(trace.read_text().splitlines()[0])["policy"] == "sticky"
    replayed = cli("replay", trace)
    assert replayed.exit_code == 0, replayed.output
    assert "the same decisions" in replayed.stdout


def test_it_says_that_there_is_no_engine_yet():
    with running("serve", "--port", "0") as server:
        server.wait_for("no engine yet")
        url = server.wait_for(LISTENS)
        with Client(url) as client:
            client.health()
            assert not client.ready()
        assert server.end() == 0
