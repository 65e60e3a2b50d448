"""One state directory: for one server at a time, and for one after the other, however the last one ended."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading

import httpx
import pytest
from environment_server import check_error, eventually
from process_bed import Bed

from thunderagent_core.server.serve import ServeError

SHELL = {"name": "shell"}
PATH = "/programs/p/environments/shell"


async def test_a_second_server_is_refused(place, served):
    with pytest.raises(ServeError, match=r"state_dir .*state is used by another server; .*--state-dir") as refused:
        await place.start()
    assert "\n" not in str(refused.value)
    await served.register("p", SHELL)
    assert await served.sh(PATH, "echo on") == "on\n"


async def test_two_servers_on_two_directories_leave_each_other_alone(place, served):
    other = await place.start(state_dir=place.state.with_name("other"))
    await served.register("p", SHELL)
    await other.register("p", SHELL)
    assert await served.sh(PATH, "echo one >file; cat file") == "one\n"
    assert await other.sh(PATH, "ls") == ""
    await other.post("/environments/reap")
    await other.release("p")
    await other.nothing_left()
    assert await served.sh(PATH, "cat file") == "one\n"


async def test_a_state_directory_that_cannot_be_used(place):
    place.state.mkdir()
    (place.state / "lock").mkdir()
    with pytest.raises(ServeError, match=r"state_dir .* cannot be used: Is a directory"):
        await place.start()


async def test_a_ledger_that_is_damaged_is_not_overwritten(place):
    place.state.mkdir()
    (place.state / "environments.sqlite").write_bytes(b"no database" * 1000)
    with pytest.raises(ServeError):
        await place.start()
    assert (place.state / "environments.sqlite").read_bytes() == b"no database" * 1000


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("{", "warm_pools"),
        ('[{"size": 1, "spec": {"name": "x", "cpu": 1}}]', "cpu"),
        ('[{"spec": {"name": "x"}}]', "size"),
    ],
)
async def test_warm_pools_that_cannot_be_used(place, tmp_path, content, says):
    file = tmp_path / "warm.json"
    file.write_text(content)
    with pytest.raises(ServeError, match=says) as refused:
        await place.start(warm_pools=file)
    assert "\n" not in str(refused.value)


async def test_a_warm_one_is_handed_out(place, tmp_path):
    file = tmp_path / "warm.json"
    file.write_text('[{"size": 1, "spec": {"name": "any", "setup": ["echo warm >made"]}}]')
    served = await place.start(warm_pools=file)

    async def warm() -> bool:
        views = (await served.get("/environments"))["environments"]
        return [(view["program_id"], view["state"]) for view in views] == [(None, "ready")]

    await eventually(warm)
    await served.register("p", {"name": "shell", "setup": ["echo warm >made"]})
    assert await served.sh(PATH, "cat made") == "warm\n"
    assert (await served.metrics())["thunderagent_environment_handed_out_total"] == 1


async def test_programs_of_the_last_server_go_on(place, served):
    await served.register("p", SHELL, {"name": "unused"})
    await served.register("child", SHELL, parent_id="p")
    await served.register("ended", SHELL)
    await served.sh(PATH, "echo kept >file")
    await served.release("ended")
    before = await served.view("p", "shell")
    await place.stop(served)

    again = await place.start(served.engine)
    assert {program["program_id"] for program in (await again.get("/programs"))["programs"]} == {"p", "child"}
    assert (await again.get("/programs/child"))["parent_id"] == "p"
    assert set(await again.states("p")) == {"shell", "unused"}
    assert await again.sh(PATH, "cat file") == "kept\n"
    assert (await again.view("p", "shell"))["id"] == before["id"]
    assert (await again.chat("p")).status_code == 200
    assert (await again.register("p", SHELL)).is_success
    check_error(await again.register("p", {**SHELL, "pids": 99}), 409, "environments", code="program_conflict")
    await again.release("p")
    await again.nothing_left()
    assert (await again.get("/programs"))["programs"] == []


async def test_the_lease_of_a_program_of_the_last_server(place, served):
    await served.register("p", SHELL)
    await served.sh(PATH, "echo kept >file")
    await place.stop(served)
    again = await place.start(served.engine, idle_lease_s=0.5)
    await again.nothing_left()


async def test_one_put_aside_comes_back_under_the_next_server(place, served):
    await served.register("p", SHELL)
    await served.sh(PATH, "echo kept >file")
    assert (await served.post(f"{PATH}/snapshot"))["state"] == "snapshotted"
    await place.stop(served)
    again = await place.start(served.engine)
    assert await again.sh(PATH, "cat file") == "kept\n"


class Serve:
    """``thunderagent serve`` as a process."""

    def __init__(self, engine_url: str, state) -> None:
        command = [sys.executable, "-m", "thunderagent_core", "serve", "--port", "0", "--backend", engine_url]
        command += ["--environments", "process", "--state-dir", str(state), "--environment-disk-floor-bytes", "0"]
        kept = {name: value for name, value in os.environ.items() if not name.startswith("THUNDERAGENT_")}
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=kept)
        self.lines: list[str] = []
        self.found = threading.Event()
        self.reader = threading.Thread(target=self._read)
        self.reader.start()

    def _read(self) -> None:
        for line in self.process.stdout:
            self.lines.append(line)
            if "listens on" in line:
                self.found.set()
        self.found.set()

    @property
    def url(self) -> str:
        assert self.found.wait(60)
        found = re.search(r"http://\S+:\d+", "".join(self.lines))
        assert found is not None, self.lines
        return found.group()

    def kill(self) -> None:
        self.process.kill()
        self.join()

    def stop(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.join()

    def join(self) -> int:
        self.process.wait(60)
        self.reader.join(60)
        self.process.stdout.close()
        return self.process.returncode


async def test_a_server_that_is_killed_loses_nothing(place):
    engine = await place.engine()
    first = Serve(engine.url, place.state)
    async with httpx.AsyncClient(base_url=first.url, timeout=60) as client:
        assert (await client.post("/programs", json={"program_id": "p", "environments": [SHELL]})).status_code == 201
        done = await client.post(
            f"{PATH}/exec", json={"command": "echo kept >file; nohup sleep 1011 >/dev/null 2>&1 &"}
        )
        assert done.json()["exit_code"] == 0
        first.kill()
    served = await place.start(engine)
    assert await served.sh(PATH, "cat file") == "kept\n"
    await served.release("p")
    await served.nothing_left()


async def test_sigterm_ends_the_process_and_keeps_the_environments(place):
    engine = await place.engine()
    first = Serve(engine.url, place.state)
    async with httpx.AsyncClient(base_url=first.url, timeout=60) as client:
        await client.post("/programs", json={"program_id": "p", "environments": [SHELL]})
        await client.post(f"{PATH}/exec", json={"command": "echo kept >file"})
    assert first.stop() == 0
    [directory] = (place.state / "sandboxes" / "environments").iterdir()
    installation = directory.name.split("-")[1]
    assert Bed(root=place.state / "sandboxes", installation=installation).leftovers() != []
    served = await place.start(engine)
    assert await served.sh(PATH, "cat file") == "kept\n"
