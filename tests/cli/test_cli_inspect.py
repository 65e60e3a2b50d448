"""programs, release, backends and events against a real server."""

from __future__ import annotations

import json
import signal
import threading
import uuid

import pytest
from cli_tools import LISTENS, cli, running

from thunderagent_core.client import Client


@pytest.fixture
def ask(server_url):
    def ask(*arguments):
        return cli(*arguments, "--server", server_url)

    return ask


@pytest.fixture
def program(server_url):
    with Client(server_url) as client, client.program(f"job {uuid.uuid4().hex}", group="g") as program:
        program.chat(model="simulated", messages=[{"role": "user", "content": "hello " * 100}], max_tokens=8)
        yield program


def test_programs_are_listed(ask, program):
    result = ask("programs")
    assert result.exit_code == 0
    row = next(line for line in result.stdout.splitlines() if program.id in line)
    assert "active" in row
    assert "acting" in row
    assert "1 program, 0 waiting" in result.stdout


def test_programs_as_json(ask, program):
    listed = json.loads(ask("programs", "--json").stdout)
    assert [view["program_id"] for view in listed["programs"]] == [program.id]
    one = json.loads(ask("programs", program.id, "--json").stdout)
    assert (one["group"], one["steps"], one["status"]) == ("g", 1, "active")


def test_one_program_is_shown_with_its_history(ask, program):
    result = ask("programs", program.id)
    assert result.exit_code == 0
    assert "1, paused 0 times, moved 0 times" in result.stdout
    assert "new program" in result.stdout


def test_a_table_is_not_cut_where_no_terminal_is_attached(server_url, program):
    result = cli("programs", "--server", server_url, COLUMNS="40")
    assert any(program.id in line and "acting" in line for line in result.stdout.splitlines())


def test_an_unknown_program_is_one_line(ask, server_url):
    result = ask("programs", "nobody")
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr == f"thunderagent: {server_url}: There is no program 'nobody'. (HTTP 404, program_not_found)\n"


def test_programs_are_released(ask, server_url):
    with Client(server_url) as client:
        client.register("r1")
        client.register("r2")
    result = ask("release", "r1", "r2")
    assert (result.exit_code, result.stdout) == (0, "r1: released\nr2: released\n")
    result = ask("release", "r1", "--json")
    assert json.loads(result.stdout) == [{"program_id": "r1", "result": "had ended before"}]
    result = ask("release", "never", "r2")
    assert (result.exit_code, result.stdout) == (1, "never: unknown\nr2: had ended before\n")


def test_backends_are_listed(ask, engine_url):
    result = ask("backends")
    assert result.exit_code == 0
    row = next(line for line in result.stdout.splitlines() if engine_url in line)
    assert "healthy" in row
    assert "simulated" in row
    (backend,) = json.loads(ask("backends", "--json").stdout)["backends"]
    assert (backend["url"], backend["healthy"]) == (engine_url, True)


def test_backends_are_added_and_drained(ask, closed_port):
    backend_id = f"127.0.0.1-{closed_port}"
    result = ask("backends", "add", f"http://127.0.0.1:{closed_port}")
    assert (result.exit_code, result.stdout) == (0, f"{backend_id}: added; it is used from its first answer\n")
    assert "down" in ask("backends").stdout
    result = ask("backends", "drain", backend_id, "--json")
    assert (result.exit_code, json.loads(result.stdout)) == (0, {"id": backend_id, "draining": True})
    assert backend_id not in ask("backends").stdout


@pytest.mark.parametrize("action", ["add", "drain"])
def test_an_action_needs_its_target(ask, action):
    result = ask("backends", action)
    assert result.exit_code == 2
    assert f"backends {action} needs" in result.stderr


def test_what_is_no_backend_is_refused(ask):
    assert ask("backends", "add", "gpu1").exit_code == 1
    assert "HTTP 404" in ask("backends", "drain", "nope").stderr
    assert ask("backends", "remove", "x").exit_code == 2


@pytest.mark.parametrize("as_json", [True, False])
def test_decisions_are_followed_until_interrupted(server_url, as_json):
    name = f"watched-{uuid.uuid4().hex}"
    stop = threading.Event()

    def keep_busy():
        with Client(server_url) as client:
            while not stop.is_set():
                with client.program(name) as program:
                    program.chat(model="simulated", messages=[{"role": "user", "content": "hi"}], max_tokens=1)

    busy = threading.Thread(target=keep_busy)
    with running("events", "--server", server_url, *(["--json"] if as_json else [])) as events:
        busy.start()
        try:
            events.wait_for(name)
            assert events.end(signal.SIGINT) == 0
        finally:
            stop.set()
            busy.join()
    if as_json:
        assert json.loads(events.lines[0])["type"] in {"Restore", "Forward", "Reclaim"}
    else:
        assert "reason=" in events.output


def test_the_server_may_come_from_the_environment(server_url):
    assert cli("programs", THUNDERAGENT_SERVER=server_url).exit_code == 0


def test_no_server_is_one_line_that_says_what_to_do(closed_port):
    result = cli("programs", "--server", f"http://127.0.0.1:{closed_port}")
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr == (
        f"thunderagent: no answer from http://127.0.0.1:{closed_port}: ConnectError: [Errno 111] Connection refused; "
        "start a server with `thunderagent serve`, or name one with --server or THUNDERAGENT_SERVER\n"
    )


def test_what_is_no_url_is_one_line():
    result = cli("backends", "--server", "gpu1:8300")
    assert result.exit_code == 2
    assert result.stderr == "thunderagent: --server: 'gpu1:8300' is not an http:// or https:// URL\n"


def test_keys(engine_url):
    with running("serve", "--port", "0", "--backend", engine_url, THUNDERAGENT_API_KEYS="one,two") as server:
        url = server.wait_for(LISTENS)
        assert "Missing or wrong API key" in cli("programs", "--server", url).stderr
        assert cli("programs", "--server", url, "--api-key", "one").exit_code == 0
        assert cli("programs", "--server", url, THUNDERAGENT_API_KEY="two").exit_code == 0
