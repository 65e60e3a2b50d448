"""When tool environments come and go: the scheduler's decisions, the end of programs, and accidents."""

from __future__ import annotations

import asyncio

import httpx
import pytest
from environment_server import check_error, eventually, soon
from scripted_engine import Gate

SHELL = {"name": "shell"}
PATH = "/programs/p/environments/shell"


class TestTheEnd:
    async def test_of_its_program(self, served, shell):
        await served.sh(shell, "echo kept >file; nohup sleep 1009 >/dev/null 2>&1 &")
        view = await served.view("p", "shell")
        response = await served.release("p")
        assert response.json() == {"program_id": "p", "released": True}
        assert not served.manager.knows("p")  # it is on record by now
        [left] = served.manager.all_views() or [None]
        assert left is None or (left.id == view["id"] and left.state == "reclaiming")
        await served.nothing_left()
        check_error(await served.client.get(shell), 404, "program_id", code="program_not_found")
        assert (await served.release("p")).json() == {"program_id": "p", "released": False}

    async def test_and_the_same_id_begins_anew(self, served, shell):
        await served.sh(shell, "echo old >file")
        await served.release("p")
        assert (await served.register("p", {**SHELL, "pids": 99})).status_code == 201
        assert await served.sh(shell, "ls") == ""
        await served.release("p")
        await served.nothing_left()

    async def test_of_its_parent(self, served):
        await served.register("parent")
        assert (await served.register("p", SHELL, parent_id="parent")).status_code == 201
        assert await served.sh(PATH, "echo on") == "on\n"
        await served.release("parent")
        await served.nothing_left()
        assert (await served.client.get("/programs/p")).status_code == 404

    async def test_of_its_lease_which_commands_renew(self, place):
        served = await place.start(idle_lease_s=3.0)
        await served.register("p", SHELL)
        await served.register("idle", SHELL)
        for _ in range(6):
            assert (await served.client.post(f"{PATH}/exec", json={"command": "sleep 1"})).status_code == 200

        async def ended() -> bool:
            return (await served.client.get("/programs/idle")).status_code == 404

        await eventually(ended)
        await served.nothing_left()

    async def test_while_a_command_runs(self, served, shell):
        task = asyncio.create_task(served.client.post(f"{shell}/exec", json={"command": "echo >begun; sleep 1000"}))

        async def begun() -> bool:
            return (await served.client.get(f"{shell}/files?path=/workspace/begun")).status_code == 200

        await eventually(begun)
        await served.release("p")
        response = await task
        ended = response.status_code in {404, 410, 503} or response.json().get("exit_code", 0) != 0
        assert ended, response.text
        await served.nothing_left()

    async def test_while_it_is_made(self, served):
        await served.register("p", {**SHELL, "setup": ["sleep 1000"]})
        waiting = asyncio.create_task(served.client.get(f"{PATH}?wait_s=60"))
        await served.until("p", "shell", "preparing")
        await served.release("p")
        check_error(await waiting, 404, "program_id", code="program_not_found")
        await served.nothing_left()


class TestWithTheScheduler:
    async def test_made_while_its_program_waits(self, place):
        gate = Gate()
        engine = await place.engine(reply=gate, capacity_tokens=4096)
        served = await place.start(engine)
        first = asyncio.create_task(served.chat("first", "x" * 14_000))
        await soon(lambda: gate.arrived == 1)
        second = asyncio.create_task(served.chat("p", "x" * 8_000, environments=[SHELL]))
        await soon(lambda: served.server.runtime.scheduler.waiting == 1)
        await served.until("p", "shell", "ready")
        program = await served.get("/programs/p")
        assert (program["status"], program["held"], gate.arrived) == ("paused", 1, 1)
        assert (await served.metrics())['thunderagent_decisions_total{decision="Prepare"}'] == 1
        gate.open()
        assert (await first).status_code == 200
        await served.release("first")
        assert (await second).status_code == 200
        assert await served.sh(PATH, "echo on") == "on\n"
        counts = await served.metrics()
        assert counts["thunderagent_environment_wanted_total"] == counts["thunderagent_environment_hidden_total"] == 1

    async def test_not_further_ahead_than_is_allowed(self, place):
        gate = Gate()
        engine = await place.engine(reply=gate, capacity_tokens=4096)
        served = await place.start(engine, prepare_ahead=2)
        tasks = [asyncio.create_task(served.chat("first", "x" * 14_000))]
        await soon(lambda: gate.arrived == 1)
        for number in range(5):
            waits = number + 1
            tasks.append(asyncio.create_task(served.chat(f"p{number}", "x" * 8_000, environments=[SHELL])))
            await soon(lambda waits=waits: served.server.runtime.scheduler.waiting == waits)

        async def ready() -> int:
            return [view.state for view in served.manager.all_views()].count("ready")

        async def two() -> bool:
            return await ready() == 2

        await eventually(two)
        states = {view.program_id: view.state for view in served.manager.all_views()}
        assert states == {"p0": "ready", "p1": "ready", "p2": "requested", "p3": "requested", "p4": "requested"}
        gate.open()
        for name, task in zip(("first", "p0", "p1", "p2", "p3", "p4"), tasks, strict=True):
            assert (await task).status_code == 200
            await served.release(name)
        await served.nothing_left()

    async def test_none_ahead(self, place):
        gate = Gate()
        engine = await place.engine(reply=gate, capacity_tokens=4096)
        served = await place.start(engine, prepare_ahead=0)
        first = asyncio.create_task(served.chat("first", "x" * 14_000))
        await soon(lambda: gate.arrived == 1)
        second = asyncio.create_task(served.chat("p", "x" * 8_000, environments=[SHELL]))
        await soon(lambda: served.server.runtime.scheduler.waiting == 1)
        assert (await served.states("p")) == {"shell": "requested"}
        assert await served.sh(PATH, "echo on") == "on\n"  # who asks for it gets it all the same
        gate.open()
        assert (await first).status_code == 200
        await served.release("first")
        assert (await second).status_code == 200

    async def test_frozen_while_its_program_is_paused(self, served):
        assert (await served.chat("p", environments=[SHELL])).status_code == 200
        await served.sh(PATH, "nohup sh -c 'while :; do echo >>ticks; sleep 0.01; done' >/dev/null 2>&1 &")
        await served.post("/programs/p/events", type="idle")
        view = await served.until("p", "shell", "paused")
        [ticks] = served.directory(view).rglob("ticks")

        async def still() -> bool:
            before = ticks.stat().st_size
            await asyncio.sleep(0.2)
            return ticks.stat().st_size == before

        await eventually(still)
        size = ticks.stat().st_size
        assert (await served.chat("p")).status_code == 200  # Restore
        await served.until("p", "shell", "in_use")
        await soon(lambda: ticks.stat().st_size > size)

    async def test_a_command_thaws_it(self, served):
        assert (await served.chat("p", environments=[SHELL])).status_code == 200
        await served.sh(PATH, "echo kept >file")
        await served.post("/programs/p/events", type="idle")
        await served.until("p", "shell", "paused")
        assert await served.sh(PATH, "cat file") == "kept\n"
        await served.until("p", "shell", "paused")  # and it freezes again, for its program is still paused


class TestAccidents:
    async def test_one_that_is_destroyed_is_lost_and_never_blank(self, served, shell):
        await served.sh(shell, "echo precious >file")
        await served.destroy(await served.view("p", "shell"))
        for _ in range(2):
            response = await served.client.post(f"{shell}/exec", json={"command": "ls"})
            if response.json().get("error", {}).get("code") == "environment_died":
                continue  # it was noticed in the midst
            check_error(response, 410, None, code="environment_lost")
        check_error(await served.client.get(f"{shell}?wait_s=1"), 410, None, code="environment_lost")
        check_error(await served.client.get(f"{shell}/files?path=/workspace/file"), 410, None, code="environment_lost")
        check_error(await served.client.post(f"{shell}/snapshot", json={}), 410, None, code="environment_lost")
        view = await served.view("p", "shell")
        assert (view["state"], view["code"]) == ("lost", "environment_lost")
        again = await served.client.post("/programs/p/environments", json=SHELL)
        assert (again.status_code, again.json()["state"]) == (200, "lost")
        assert (await served.client.delete(shell)).status_code == 200
        assert (await served.client.post("/programs/p/environments", json=SHELL)).status_code == 201
        assert await served.sh(shell, "ls") == ""
        assert (await served.metrics())["thunderagent_environment_lost_total"] == 1

    async def test_one_that_dies_untouched_is_made_again(self, served, shell):
        view = await served.view("p", "shell")
        await served.destroy(view)
        assert await served.sh(shell, "echo on") == "on\n"

    async def test_one_whose_main_process_is_killed_comes_back_with_its_files(self, served, shell):
        await served.sh(shell, "echo kept >file")
        await served.bed.kill(served.place(await served.view("p", "shell")))

        async def back() -> bool:
            response = await served.client.post(f"{shell}/exec", json={"command": "cat file"})
            if response.status_code == 200:
                assert response.json()["stdout"] == "kept\n"  # never a blank one
                return True
            check_error(response, 410, None, code="environment_died")
            return False

        await eventually(back)

    async def test_one_that_dies_under_a_command(self, served, shell):
        task = asyncio.create_task(served.client.post(f"{shell}/exec", json={"command": "echo >begun; sleep 1000"}))

        async def begun() -> bool:
            return (await served.client.get(f"{shell}/files?path=/workspace/begun")).status_code == 200

        await eventually(begun)
        await served.bed.kill(served.place(await served.view("p", "shell")))
        response = await task
        assert response.status_code == 410
        assert response.json()["error"]["code"] == "environment_died"
        assert response.headers["x-should-retry"] == "false"

    async def test_a_stream_breaks_off_where_it_dies(self, served, shell):
        text = ""
        body = {"command": "echo one; sleep 1000", "stream": True}
        with pytest.raises(httpx.RemoteProtocolError):
            async with served.client.stream("POST", f"{shell}/exec", json=body) as response:
                async for piece in response.aiter_text():
                    text += piece
                    await served.bed.kill(served.place(await served.view("p", "shell")))
        assert "event: output" in text
        assert "event: exit" not in text
