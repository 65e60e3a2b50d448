"""The clients and the commands against a real server with real sandboxes."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys

import pytest
from environment_server import eventually

from thunderagent_core.client import (
    APIError,
    AsyncClient,
    Client,
    CommandFailedError,
    ExecOutput,
    ExecResult,
    NotFoundError,
)

SHELL = {"name": "shell", "memory_bytes": 128 << 20}


@pytest.fixture
async def in_thread(served):
    """Run a function that takes a synchronous client, while the server runs on this loop."""

    async def call(work):
        def whole():
            with Client(served.url) as client:
                return work(client)

        return await asyncio.to_thread(whole)

    return call


class TestSync:
    async def test_the_example_of_the_documentation(self, served, in_thread):
        def work(client):
            with client.program("job-7", environments=[SHELL]) as program:
                sandbox = program.environment("shell")
                sandbox.upload("/workspace/main.py", "print(6 * 7)")
                return sandbox.exec("python3 main.py").stdout

        assert await in_thread(work) == "42\n"
        await served.nothing_left()

    async def test_everything_that_an_environment_can(self, served, in_thread):
        def work(client):
            with client.program("p", environments=[SHELL]) as program:
                box = program.environment("shell")
                assert box.wait_ready().state == "ready"
                data = bytes(range(256)) * 1000
                box.upload("/workspace/ü/data", data, mode=0o600)
                assert box.download("/workspace/ü/data") == data
                result = box.exec(["sh", "-c", 'printf "\\377$A"; echo no >&2; exit 4'], env={"A": "a"}, workdir="/tmp")
                assert (result.exit_code, result.stdout_bytes, result.stderr) == (4, b"\xffa", "no\n")
                assert result.output == "\ufffdano\n"
                assert box.exec("sleep 1000", timeout_s=0.2).timed_out
                assert box.exec("yes | head -c 5000", output_limit_bytes=10).dropped_stdout_bytes == 4990
                with pytest.raises(CommandFailedError, match="ended with status 4") as failed:
                    box.exec("echo why; exit 4", check=True)
                assert failed.value.result.stdout == "why\n"
                with pytest.raises(CommandFailedError, match="ran out of time"):
                    box.exec("sleep 1000", timeout_s=0.2, check=True)
                assert box.exec("exit 0", check=True).exit_code == 0
                assert box.view().state == "in_use"
                assert [view.name for view in client.environments("p")] == ["shell"]
                assert [view.program_id for view in client.environments()] == ["p"]
                assert client.reap(dry_run=True) == ()
                assert client.reap() == ()

        await in_thread(work)
        await served.nothing_left()

    async def test_streams(self, in_thread):
        def work(client):
            with client.program("p", environments=[SHELL]) as program:
                pieces = list(program.environment("shell").stream("echo one; echo two >&2; exit 3"))
                *outputs, end = pieces
                assert all(isinstance(piece, ExecOutput) for piece in outputs)
                assert b"".join(p.data for p in outputs if p.stream == "stdout") == b"one\n"
                assert b"".join(p.data for p in outputs if p.stream == "stderr") == b"two\n"
                assert isinstance(end, ExecResult)
                assert end.exit_code == 3

        await in_thread(work)

    async def test_leaving_a_stream_ends_its_command(self, in_thread):
        def work(client):
            with client.program("p", environments=[SHELL]) as program:
                box = program.environment("shell")
                stream = box.stream("echo begun; exec sleep 1013")
                assert next(stream) == ExecOutput("stdout", b"begun\n")
                stream.close()
                while "sleep 1013" in box.exec(["ps", "ax"]).stdout:
                    pass  # bounded by the test's own time-out

        await in_thread(work)

    async def test_declaring_putting_aside_and_deleting(self, served, in_thread):
        def work(client):
            with client.program("p") as program:
                box = program.declare(SHELL)
                assert program.declare(SHELL).name == "shell"
                box.upload("/workspace/kept", b"kept")
                assert box.snapshot().state == "snapshotted"
                assert box.download("/workspace/kept") == b"kept"
                box.delete()
                with pytest.raises(NotFoundError) as gone:
                    box.exec("id")
                assert gone.value.code == "environment_not_found"

        await in_thread(work)
        await served.nothing_left()

    async def test_errors(self, served, in_thread):
        def work(client):
            with client.program("p", environments=[SHELL]) as program:
                box = program.environment("shell")
                for code, attempt in (
                    ("file_not_found", lambda: box.download("/workspace/none")),
                    ("bad_path", lambda: box.upload("none", b"")),
                    ("workdir_not_found", lambda: box.exec("id", workdir="none")),
                    ("environment_not_found", lambda: program.environment("none").exec("id")),
                    ("invalid_value", lambda: box.exec("id", timeout_s=-1)),
                    ("invalid_value", lambda: program.declare({"name": "NO"})),
                ):
                    with pytest.raises(APIError) as error:
                        attempt()
                    assert error.value.code == code
                with pytest.raises(APIError, match="one") as failed:
                    program.declare({"name": "bad", "setup": ["echo one; exit 1"]}).exec("id")
                assert failed.value.code == "environment_failed"

        await in_thread(work)
        await served.nothing_left()


class TestAsync:
    async def test_everything_that_an_environment_can(self, served):
        async with AsyncClient(served.url) as client:
            async with client.program("p", environments=[SHELL]) as program:
                box = program.environment("shell")
                assert (await box.wait_ready()).state == "ready"
                await box.upload("/workspace/tool", "#!/bin/sh\necho ran\n", mode=0o755)
                assert await box.download("/workspace/tool") == b"#!/bin/sh\necho ran\n"
                assert (await box.exec("./tool", check=True)).stdout == "ran\n"
                with pytest.raises(CommandFailedError):
                    await box.exec("exit 7", check=True)
                *outputs, end = [piece async for piece in box.stream("echo one; exit 2")]
                assert [piece.data for piece in outputs] == [b"one\n"]
                assert end.exit_code == 2
                assert (await box.snapshot()).state == "snapshotted"
                assert (await box.exec("cat tool")).stdout.startswith("#!")
                other = await program.declare({"name": "other"})
                assert {view.name for view in await client.environments("p")} == {"shell", "other"}
                assert len(await client.environments()) == 2
                await other.delete()
                assert await client.reap(dry_run=True) is not None
            await served.nothing_left()

    async def test_leaving_ends_the_command(self, served):
        async with AsyncClient(served.url) as client, client.program("p", environments=[SHELL]) as program:
            box = program.environment("shell")
            stream = box.stream("echo begun; exec sleep 1017")
            assert await anext(stream) == ExecOutput("stdout", b"begun\n")
            await stream.aclose()
            task = asyncio.create_task(box.exec("echo >here; exec sleep 1019"))

            async def begun() -> bool:
                return (await box.exec("test -e here")).exit_code == 0

            await eventually(begun)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

            async def over() -> bool:
                shown = (await box.exec(["ps", "ax"])).stdout
                return "sleep 1017" not in shown and "sleep 1019" not in shown

            await eventually(over)


@pytest.fixture
async def command(served):
    """Run ``thunderagent`` as a process."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("THUNDERAGENT_")}

    async def start(*arguments):
        name, *rest = arguments
        words = [sys.executable, "-m", "thunderagent_core", name, "--server", served.url, *rest]
        pipe = asyncio.subprocess.PIPE
        variables = {**kept, "COLUMNS": "240", "NO_COLOR": "1"}
        return await asyncio.create_subprocess_exec(*words, stdout=pipe, stderr=pipe, env=variables)

    async def run(*arguments):
        process = await start(*arguments)
        out, err = await process.communicate()
        return process.returncode, out, err.decode()

    run.start = start
    return run


class TestCommands:
    async def test_exec(self, served, shell, command):
        assert await command("exec", "p", "shell", "--", "sh", "-c", "printf 'a\\377'; echo b >&2; exit 3") == (
            3,
            b"a\xff",
            "b\n",
        )
        assert await command("exec", "p", "shell", "--workdir", "/tmp", "--", "pwd") == (0, b"/tmp\n", "")
        status, out, err = await command("exec", "p", "shell", "--timeout-s", "0.2", "--", "sleep", "1000")
        assert (status, out) == (124, b"")
        assert "its time was up" in err
        assert (await command("exec", "p", "shell", "--timeout-s", "0", "--", "id"))[0] == 2

    async def test_exec_where_there_is_none(self, served, shell, command):
        for arguments, says in ((("p", "none"), "no environment"), (("q", "shell"), "q")):
            status, out, err = await command("exec", *arguments, "--", "id")
            assert status not in {0, 124}
            assert out == b""
            assert says in err
            assert "Traceback" not in err

    async def test_an_interrupt_ends_the_command(self, served, shell, command):
        process = await command.start("exec", "p", "shell", "--", "sh", "-c", "echo begun; exec sleep 1021")
        assert await process.stdout.readline() == b"begun\n"
        process.send_signal(signal.SIGINT)
        _, err = await process.communicate()
        assert process.returncode == 130
        assert b"Traceback" not in err

        async def over() -> bool:
            return "sleep 1021" not in (await served.post(f"{shell}/exec", command=["ps", "ax"]))["stdout"]

        await eventually(over)

    async def test_environments(self, served, shell, command):
        await served.register("q", {"name": "other"})
        status, out, _ = await command("environments")
        assert status == 0
        assert b"shell" in out
        assert b"other" in out
        assert b"2 environments" in out
        status, out, _ = await command("environments", "p", "--json")
        [view] = json.loads(out)["environments"]
        assert view == {**await served.view("p", "shell"), "age_s": view["age_s"], "state_s": view["state_s"]}
        assert (await command("environments", "nobody"))[0] == 1

    async def test_reap(self, served, shell, command):
        status, out, _ = await command("reap", "--dry-run")
        assert (status, out) == (0, b"0 things that would be taken back\n")
        status, out, _ = await command("reap", "--json")
        assert json.loads(out) == {"dry_run": False, "items": []}
        assert (await served.view("p", "shell"))["state"] == "ready"


async def test_where_there_are_none(place):
    served = await place.start(environments="off")
    async with AsyncClient(served.url) as client:
        with pytest.raises(APIError) as off:
            await client.environments()
        assert off.value.code == "environments_disabled"
