"""Clients are killed while they wait: what they had running ends at once, and their programs when the lease is over."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from kills import Forge, Server, until
from test_kills_process import assert_all_gone

if TYPE_CHECKING:
    from collections.abc import Iterator

CLIENT = """
import http.client, sys
connection = http.client.HTTPConnection("127.0.0.1", int(sys.argv[1]))
connection.request(sys.argv[2], sys.argv[3], sys.argv[4] or None)
answer = connection.getresponse()
while answer.read(1):
    pass
"""


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    arguments = ["--environments", "process", "--environment-disk-floor-bytes", "0", "--idle-lease-s", "10"]
    with Forge() as forge:
        server = Server(forge, tmp_path, arguments, None, 0.0)
        try:
            yield server
        finally:
            server.stop()
        assert_all_gone(tmp_path / "state")


def client(server: Server, method: str, path: str, content: Any = None) -> subprocess.Popen[bytes]:
    body = "" if content is None else json.dumps(content)
    return subprocess.Popen([sys.executable, "-I", "-S", "-c", CLIENT, str(server.port), method, path, body])


def runs(sign: str) -> bool:
    """Tell whether a process with this in its arguments runs, other than its client."""
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes()
        except OSError:
            continue
        if sign.encode() in words and CLIENT.encode() not in words:
            return True
    return False


@pytest.mark.parametrize("stream", [False, True])
def test_a_command_ends_with_its_client_and_the_program_with_its_lease(server: Server, *, stream: bool) -> None:
    sign = uuid.uuid4().hex
    server.call("POST", "/programs", {"program_id": "p", "environments": [{"name": "shell"}]})
    command = ["/bin/sh", "-c", f"echo begun; sleep 1000; : {sign}"]
    waiting = client(server, "POST", "/programs/p/environments/shell/exec", {"command": command, "stream": stream})
    until(lambda: runs(sign), "the command runs")
    waiting.send_signal(signal.SIGKILL)
    waiting.wait()
    until(lambda: not runs(sign), "the command is ended")
    until(lambda: not server.programs(), "the lease ends the program")
    until(lambda: not server.environments(), "its environment is taken back")


def test_what_is_being_prepared_goes_with_the_lease_of_a_killed_client(server: Server) -> None:
    sign = uuid.uuid4().hex
    spec = {"name": "shell", "setup": [f"sleep 1000; : {sign}"]}
    server.call("POST", "/programs", {"program_id": "p", "environments": [spec]})
    waiting = client(server, "GET", "/programs/p/environments/shell?wait_s=300")
    until(lambda: runs(sign), "the set-up command runs")
    waiting.send_signal(signal.SIGKILL)
    waiting.wait()
    until(lambda: not server.programs(), "the lease ends the program")
    until(lambda: not server.environments(), "its environment is taken back")
    assert not runs(sign)
