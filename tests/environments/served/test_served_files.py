"""Files in a tool environment, putting it aside, and deleting it, over HTTP."""

from __future__ import annotations

import asyncio

from environment_server import HANG_S, check_error, eventually
from server_tools import RawClient


async def run(served, shell, command, **fields):
    return await served.post(f"{shell}/exec", command=command, **fields)


class TestFiles:
    async def test_there_and_back(self, served, shell):
        data = bytes(range(256)) * 5000
        path = {"path": "/workspace/a b/ü%.bin"}
        response = await served.client.put(f"{shell}/files", params=path, content=data)
        assert response.json() == {"path": path["path"], "bytes": len(data)}
        back = await served.client.get(f"{shell}/files", params=path)
        assert back.status_code == 200
        assert back.headers["content-type"] == "application/octet-stream"
        assert back.content == data
        assert await served.sh(shell, ["wc", "-c", path["path"]]) == f"{len(data)} {path['path']}\n"
        assert await served.sh(shell, ["stat", "-c", "%a", path["path"]]) == "644\n"

    async def test_modes_and_empty_files(self, served, shell):
        url = f"{shell}/files?path=/workspace/tool"
        assert (await served.client.put(f"{url}&mode=755", content=b"#!/bin/sh\necho ran\n")).status_code == 200
        assert await served.sh(shell, "./tool") == "ran\n"
        assert (await served.client.put(url, content=b"")).status_code == 200
        empty = await served.client.get(url)
        assert (empty.status_code, empty.content) == (200, b"")

    async def test_modes_that_are_none(self, served, shell):
        for mode in ("rwx", "9", "-1", "+7", "0o7", "77777", "", "1_0"):
            at = {"path": "/workspace/x", "mode": mode}
            check_error(await served.client.put(f"{shell}/files", params=at, content=b"x"), 400, "mode")
        check_error(await served.client.get(f"{shell}/files?path=/workspace/x"), 404, "path", code="file_not_found")

    async def test_what_cannot_be_read(self, served, shell):
        files = f"{shell}/files"
        await served.sh(shell, "mkfifo /workspace/pipe")
        for path, status, code in (
            ("/workspace/none", 404, "file_not_found"),
            ("/workspace", 400, "is_a_directory"),
            ("/workspace/pipe", 400, "not_a_file"),
            ("relative", 400, "bad_path"),
            ("", 400, "bad_path"),
        ):
            check_error(await served.client.get(files, params={"path": path}), status, "path", code=code)
        check_error(await served.client.get(files), 400, "path", code="missing_required_parameter")
        check_error(await served.client.put(files), 400, "path", code="missing_required_parameter")

    async def test_a_directory_is_not_overwritten(self, served, shell):
        await served.sh(shell, "mkdir d")
        response = await served.client.put(f"{shell}/files?path=/workspace/d", content=b"x")
        check_error(response, 400, "path", code="is_a_directory")
        response = await served.client.put(f"{shell}/files?path=/workspace/d/", content=b"x")
        check_error(response, 400, "path", code="bad_path")

    async def test_too_large(self, place):
        served = await place.start(max_body_bytes=10_000)
        await served.register("p", {"name": "shell"})
        shell = "/programs/p/environments/shell"
        assert (await served.client.put(f"{shell}/files?path=/workspace/x", content=b"x" * 10_000)).status_code == 200
        response = await served.client.put(f"{shell}/files?path=/workspace/x", content=b"y" * 10_001)
        check_error(response, 413, None, code="request_too_large")
        assert await served.sh(shell, "head -c 3 x") == "xxx"

    async def test_head_answers_without_a_body(self, served, shell):
        await served.client.put(f"{shell}/files?path=/workspace/x", content=b"12345")
        response = await served.client.head(f"{shell}/files?path=/workspace/x")
        assert (response.status_code, response.content) == (200, b"")

    async def test_a_reader_that_goes_away(self, served, shell):
        await served.sh(shell, "head -c 50000000 /dev/zero >big")
        raw = await RawClient.connect(served.server.port)
        raw.send(f"GET {shell}/files?path=/workspace/big HTTP/1.1\r\nhost: localhost\r\n\r\n".encode())
        await raw.head()
        raw.vanish()

        async def gone() -> bool:
            return "cat" not in (await run(served, shell, ["ps", "axo", "comm"]))["stdout"].split()

        await eventually(gone)
        async with asyncio.timeout(HANG_S):
            assert await served.sh(shell, "echo on") == "on\n"


class TestAside:
    async def test_put_aside_and_back(self, served, shell):
        await served.client.put(f"{shell}/files?path=/workspace/kept", content=b"\x00kept")
        response = await served.client.post(f"{shell}/snapshot", json={})
        assert response.status_code == 200
        assert response.json()["state"] == "snapshotted"
        view = response.json()

        async def away() -> bool:
            return not served.directory(view).exists()

        await eventually(away)
        again = await served.post(f"{shell}/snapshot")
        assert again["state"] == "snapshotted"
        assert (await served.client.get(f"{shell}/files?path=/workspace/kept")).content == b"\x00kept"
        assert (await served.view("p", "shell"))["state"] == "in_use"

    async def test_not_while_commands_run(self, served, shell):
        await served.sh(shell, "mkfifo gate")
        task = asyncio.create_task(run(served, shell, "echo >begun; read line <gate"))

        async def begun() -> bool:
            return (await served.client.get(f"{shell}/files?path=/workspace/begun")).status_code == 200

        await eventually(begun)
        response = await served.client.post(f"{shell}/snapshot", json={})
        check_error(response, 503, None, code="environment_busy")
        await served.sh(shell, "echo go >gate")
        assert (await task)["exit_code"] == 0

    async def test_not_before_it_exists(self, served):
        await served.register("slow", {"name": "shell", "setup": ["sleep 1000"]})
        response = await served.client.post("/programs/slow/environments/shell/snapshot", json={})
        check_error(response, 503, None, code="environment_not_ready")


class TestDeleting:
    async def test_its_name_is_free_at_once(self, served, shell):
        await served.sh(shell, "echo old >file")
        response = await served.client.delete(shell)
        assert response.json() == {"program_id": "p", "name": "shell", "deleted": True}
        check_error(await served.client.delete(shell), 404, "name", code="environment_not_found")
        check_error(
            await served.client.post(f"{shell}/exec", json={"command": "id"}), 404, "name", code="environment_not_found"
        )
        await served.nothing_left()
        created = await served.client.post("/programs/p/environments", json={"name": "shell", "pids": 64})
        assert created.status_code == 201
        assert await served.sh(shell, "ls") == ""
