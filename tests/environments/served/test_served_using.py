"""Looking at a tool environment and running commands in it, over HTTP."""

from __future__ import annotations

import asyncio
import base64

import pytest
from environment_server import check_error, events, eventually, soon
from server_tools import RawClient

from thunderagent_core.client import APIError, Client


async def run(served, shell, command, **fields):
    return await served.post(f"{shell}/exec", command=command, **fields)


WRONG = [
    ({}, 400, "command", "missing_required_parameter"),
    ({"command": 7}, 400, "command", "invalid_value"),
    ({"command": ["a", 7]}, 400, "command[1]", "invalid_value"),
    ({"command": []}, 400, "command", "bad_command"),
    ({"command": ""}, 400, "command", "bad_command"),
    ({"command": "a\0b"}, 400, "command", "bad_command"),
    ({"command": "x" * (2 << 20)}, 400, "command", "bad_command"),
    ({"command": "id", "comand": 1}, 422, "comand", "unknown_field"),
    ({"command": "id", "timeout_s": 0}, 400, "timeout_s", "invalid_value"),
    ({"command": "id", "timeout_s": 1e9}, 400, "timeout_s", "invalid_value"),
    ({"command": "id", "wait_s": 0}, 400, "wait_s", "invalid_value"),
    ({"command": "id", "output_limit_bytes": -1}, 400, "output_limit_bytes", "invalid_value"),
    ({"command": "id", "output_limit_bytes": 1 << 40}, 400, "output_limit_bytes", "invalid_value"),
    ({"command": "id", "encoding": "latin-1"}, 400, "encoding", "invalid_value"),
    ({"command": "id", "env": {"A B": "x"}}, 400, "env", "invalid_value"),
    ({"command": "id", "env": {"A": 7}}, 400, "env[...]", "invalid_value"),
    ({"command": "id", "stream": "yes"}, 400, "stream", "invalid_value"),
]


class TestLooking:
    async def test_one_is_shown(self, served, shell):
        view = await served.get(shell)
        assert (view["name"], view["program_id"], view["provider"]) == ("shell", "p", "process")
        assert view["state"] == "ready"
        assert view["ports"] == {}
        assert view["disk_reserved_bytes"] == 256 << 20
        assert 0 < view["start_s"] <= view["age_s"]
        assert 0 <= view["state_s"] <= view["age_s"]

    async def test_all_are_shown(self, served, shell):
        await served.register("q", {"name": "other"})
        shown = (await served.get("/environments"))["environments"]
        assert {(one["program_id"], one["name"]) for one in shown} == {("p", "shell"), ("q", "other")}
        [mine] = (await served.get("/programs/p/environments"))["environments"]
        assert mine["name"] == "shell"
        assert (await served.get("/programs/p"))["environments"] == [{"name": "shell", "state": "ready"}]

    async def test_what_is_not_there(self, served, shell):
        for path in (
            "/programs/q/environments",
            "/programs/q/environments/shell",
            "/programs/q/environments/shell?wait_s=1",
        ):
            check_error(await served.client.get(path), 404, "program_id", code="program_not_found")
        for path in ("/programs/p/environments/other", "/programs/p/environments/other?wait_s=1"):
            check_error(await served.client.get(path), 404, "name", code="environment_not_found")
        command = await served.client.post("/programs/p/environments/other/exec", json={"command": "id"})
        check_error(command, 404, "name", code="environment_not_found")
        check_error(await served.client.get(f"{shell}/nothing"), 404, None, code="route_not_found")
        check_error(await served.client.get("/environments/x"), 404, None, code="route_not_found")

    async def test_a_wait_that_makes_no_sense(self, served, shell):
        for value in ("x", "-1", "nan", "301", "inf"):
            check_error(await served.client.get(f"{shell}?wait_s={value}"), 400, "wait_s")

    async def test_waiting_has_an_end(self, served):
        await served.register("slow", {"name": "shell", "setup": ["sleep 1000"]})
        response = await served.client.get("/programs/slow/environments/shell?wait_s=0.3")
        check_error(response, 503, None, code="environment_not_ready")
        late = await served.client.post("/programs/slow/environments/shell/exec", json={"command": "id", "wait_s": 0.2})
        check_error(late, 503, None, code="environment_not_ready")

    async def test_one_that_cannot_be_made(self, served):
        await served.register("bad", {"name": "shell", "setup": ["echo broken; exit 3"]})
        response = await served.client.get("/programs/bad/environments/shell?wait_s=60")
        check_error(response, 424, None, code="environment_failed")
        assert "broken" in response.json()["error"]["message"]
        view = await served.until("bad", "shell", "failed")  # what was made of it is taken back before
        assert view["code"] == "setup_failed"

    async def test_a_wrong_method(self, served, shell):
        response = await served.client.get(f"{shell}/exec")
        check_error(response, 405, None, code="method_not_allowed")
        assert response.headers["allow"] == "POST"


class TestExec:
    async def test_text_and_list(self, served, shell):
        result = await run(served, shell, "echo out; echo err >&2; exit 3")
        assert result.pop("duration_s") > 0
        assert result == {
            "exit_code": 3, "stdout": "out\n", "stderr": "err\n", "encoding": "utf-8", "timed_out": False,
            "dropped_stdout_bytes": 0, "dropped_stderr_bytes": 0,
        }  # fmt: skip
        assert await served.sh(shell, ["printf", "%s|", "a b", "$HOME"]) == "a b|$HOME|"
        assert (await served.view("p", "shell"))["state"] == "in_use"

    async def test_environment_and_directory(self, served, shell):
        await served.sh(shell, "mkdir -p sub/dir")
        assert (
            await served.sh(shell, 'echo "$A $PWD"', env={"A": "b c"}, workdir="sub/dir") == "b c /workspace/sub/dir\n"
        )
        assert await served.sh(shell, "pwd", workdir="/tmp") == "/tmp\n"
        assert await served.sh(shell, 'echo "<$A>"') == "<>\n"
        response = await served.client.post(f"{shell}/exec", json={"command": "id", "workdir": "nowhere"})
        check_error(response, 400, "workdir", code="workdir_not_found")

    async def test_a_time_limit_ends_the_whole_group(self, served, shell):
        result = await run(served, shell, "sleep 1003 & sleep 1003", timeout_s=0.3)
        assert result["timed_out"]
        assert result["exit_code"] != 0

        async def over():
            return "sleep 1003" not in (await run(served, shell, ["ps", "ax"]))["stdout"]

        await eventually(over)

    async def test_an_output_limit_keeps_both_ends(self, served, shell):
        result = await run(served, shell, "printf a; yes x | head -c 100000; printf z", output_limit_bytes=1000)
        assert result["stdout"].startswith("ax")
        assert result["stdout"].endswith("z")
        assert len(result["stdout"]) + result["dropped_stdout_bytes"] == 100_002
        assert len(result["stdout"]) <= 1000

    async def test_bytes(self, served, shell):
        command = r"printf '\377\000\n'"
        assert base64.b64decode((await run(served, shell, command, encoding="base64"))["stdout"]) == b"\xff\x00\n"
        assert (await run(served, shell, command))["stdout"] == "\ufffd\x00\n"

    @pytest.mark.parametrize("stream", [False, True])
    async def test_what_is_wrong_with_a_command(self, served, shell, stream):
        for body, status, param, code in WRONG:
            response = await served.client.post(f"{shell}/exec", json={"stream": stream, **body})
            check_error(response, status, param, code=code)
        assert await served.sh(shell, "echo fine") == "fine\n"

    async def test_one_that_may_have_run_is_not_to_be_repeated(self, served, shell):
        command = "echo ran >>runs; kill -KILL $PPID"
        response = await served.client.post(f"{shell}/exec", json={"command": command})
        check_error(response, 502, None, code="channel_lost")
        assert response.headers["x-should-retry"] == "false"
        with Client(served.url) as client, pytest.raises(APIError) as error:
            await asyncio.to_thread(client.program("p").environment("shell").exec, command)
        assert error.value.code == "channel_lost"
        assert await served.sh(shell, "cat runs") == "ran\nran\n"

    async def test_four_at_a_time(self, served, shell):
        commands = [run(served, shell, f"read line <gate{n % 4}; echo {n}") for n in range(4)]
        await served.sh(shell, "mkfifo gate0 gate1 gate2 gate3")
        tasks = [asyncio.create_task(command) for command in commands]
        opener = await served.client.post(f"{shell}/exec", json={"command": "id", "timeout_s": 5})
        assert opener.status_code in {200, 503}
        bed = served.directory(await served.view("p", "shell"))
        fifos = sorted(bed.rglob("gate?"))
        assert len(fifos) == 4
        for fifo in fifos:
            await asyncio.to_thread(fifo.write_text, "go\n")
        assert [(await task)["stdout"] for task in tasks] == ["0\n", "1\n", "2\n", "3\n"]


class TestStream:
    async def test_output_comes_as_it_is_written(self, served, shell):
        await served.sh(shell, "mkfifo gate")
        body = {"command": "echo one; read line <gate; echo two >&2; exit 5", "stream": True}
        async with served.client.stream("POST", f"{shell}/exec", json=body) as response:
            assert response.status_code == 200
            assert response.headers["content-type"] == "text/event-stream"
            text = ""
            pieces = response.aiter_text()
            async for piece in pieces:
                text += piece
                if text.endswith("\n\n"):
                    break
            [(kind, data)] = events(text)
            assert (kind, data["stream"], base64.b64decode(data["data"])) == ("output", "stdout", b"one\n")
            await served.sh(shell, "echo go >gate")
            async for piece in pieces:
                text += piece
        *outputs, (kind, end) = events(text)
        assert base64.b64decode(outputs[-1][1]["data"]) == b"two\n"
        assert outputs[-1][1]["stream"] == "stderr"
        assert kind == "exit"
        assert (end["exit_code"], end["timed_out"]) == (5, False)
        assert "stdout" not in end

    async def test_the_time_limit_is_told(self, served, shell):
        response = await served.client.post(
            f"{shell}/exec", json={"command": "echo on; sleep 1000", "stream": True, "timeout_s": 1}
        )
        kind, end = events(response.text)[-1]
        assert (kind, end["timed_out"]) == ("exit", True)

    @pytest.mark.parametrize("stream", [False, True])
    async def test_a_client_that_goes_away_ends_its_command(self, served, shell, stream):
        raw = await RawClient.connect(served.server.port)
        raw.post(f"{shell}/exec", {"command": "echo $$ >pid; echo begun; exec sleep 1007", "stream": stream})
        if stream:
            await raw.until(b"}\n\n")

        async def sleeping() -> bool:
            return "sleep 1007" in (await run(served, shell, ["ps", "ax"]))["stdout"]

        await eventually(sleeping)
        raw.vanish()

        async def ended() -> bool:
            return not await sleeping()

        await eventually(ended)
        [executor] = [record.executor for record in served.manager._records.environments.values()]
        await soon(lambda: executor is None or executor.active == 0)
