"""The manager with nothing replaced: a ledger with its thread, real time, real commands in scripted environments."""

from __future__ import annotations

import asyncio
import threading
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from thunderagent_core.environments.commands import ExecRequest
from thunderagent_core.environments.ledger import Ledger
from thunderagent_core.environments.ledger_errors import FencedError
from thunderagent_core.environments.manager import Manager, ManagerSettings
from thunderagent_core.environments.manager.errors import PreparationError
from thunderagent_core.environments.manager.hooks import JsonPost
from thunderagent_core.environments.scripted.provider import ScriptedProvider
from thunderagent_core.environments.scripted.world import ScriptedWorld
from thunderagent_core.environments.spec import EnvironmentSpec, Hook
from thunderagent_core.environments.states import State

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

PATIENCE_S = 60.0


@pytest.fixture
async def world() -> AsyncIterator[ScriptedWorld]:
    made = ScriptedWorld()
    yield made
    await made.aclose()


@asynccontextmanager
async def server(path: Path, world: ScriptedWorld, **settings: Any) -> AsyncIterator[Manager]:
    ledger = await Ledger.open(path / "ledger.db")
    provider = ScriptedProvider(world, installation=ledger.installation)
    chosen = {"default_provider": "scripted", "freeze_after_s": 0.05, **settings}
    manager = await Manager.start(ledger, {"scripted": provider}, ManagerSettings(**chosen))
    yield manager
    await manager.aclose()
    await ledger.aclose()


async def until(condition: Callable[[], Any]) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not condition():
            await asyncio.sleep(0.01)


async def run(manager: Manager, program_id: str, command: str) -> str:
    async with manager.use(program_id, "shell", PATIENCE_S) as executor:
        result = await executor.run(ExecRequest(command=command))
    assert result.exit_code == 0, result.stderr
    return result.stdout.decode().strip()


async def test_a_whole_life_with_real_commands(tmp_path: Path, world: ScriptedWorld) -> None:
    spec = EnvironmentSpec(
        name="shell", setup=("echo made >log",), on_ready=Hook(command="echo ready >>log"), env={"WHO": "me"}
    )
    async with server(tmp_path, world) as manager:
        await manager.declare("p", [spec])
        manager.prepare("p")
        await manager.wait_ready("p", "shell", PATIENCE_S)
        assert await run(manager, "p", "cat log; echo $WHO; pwd | sed 's,.*/,,'") == "made\nready\nme\nworkspace"
        await run(manager, "p", "echo precious >kept")
        manager.paused("p")
        await until(lambda: manager.views("p")[0].state == "paused")
        assert await run(manager, "p", "cat kept") == "precious"
        await manager.snapshot("p", "shell")
    async with server(tmp_path, world) as manager:
        assert [program.id for program in manager.live_programs()] == ["p"]
        assert await run(manager, "p", "cat kept") == "precious"
        await manager.ended("p", "released")
        await until(lambda: not manager.all_views())
    assert not world.boxes
    assert not world.snapshots


async def test_output_of_a_failing_setup(tmp_path: Path, world: ScriptedWorld) -> None:
    async with server(tmp_path, world) as manager:
        await manager.declare("p", [EnvironmentSpec(name="shell", setup=("echo no such thing >&2; exit 7",))])
        with pytest.raises(PreparationError, match=r"no such thing.*exit status 7"):
            await manager.wait_ready("p", "shell", PATIENCE_S)
        await until(lambda: not world.boxes)


async def test_many_programs_at_once(tmp_path: Path, world: ScriptedWorld) -> None:
    async with server(tmp_path, world) as manager:
        programs = [f"p{number}" for number in range(100)]
        await asyncio.gather(*(manager.declare(program, [EnvironmentSpec(name="shell")]) for program in programs))
        for program in programs:
            manager.prepare(program)
        await asyncio.gather(*(manager.wait_ready(program, "shell", PATIENCE_S) for program in programs))
        assert len(world.boxes) == 100
        await asyncio.gather(*(manager.ended(program, "released") for program in programs))
        await until(lambda: not manager.all_views())
        assert not world.boxes


async def test_a_cancelled_caller_does_not_call_back_the_end(tmp_path: Path, world: ScriptedWorld) -> None:
    async with server(tmp_path, world) as manager:
        await manager.declare("p", [EnvironmentSpec(name="shell")])
        await manager.wait_ready("p", "shell", PATIENCE_S)
        ending = asyncio.ensure_future(manager.ended("p", "released"))
        await asyncio.sleep(0)
        ending.cancel()
        await until(lambda: not world.boxes)
        assert manager.live_programs() == []


async def test_whoever_is_cancelled_ends_after_the_change_that_it_began(tmp_path: Path, world: ScriptedWorld) -> None:
    """Else the next one who looks would not know of a change that takes place in a moment."""
    async with server(tmp_path, world) as manager:
        await manager.declare("p", [EnvironmentSpec(name="shell")])
        record = manager._records.programs["p"].environments["shell"]
        gate = threading.Event()
        blocked = manager._kit.ledger._writer.submit(lambda _: gate.wait(PATIENCE_S))
        changing = asyncio.ensure_future(manager._records.change(record, State.PREPARING))
        await asyncio.sleep(0)
        for _ in range(3):
            changing.cancel()
            await asyncio.sleep(0.01)
            assert not changing.done()
        gate.set()
        with pytest.raises(asyncio.CancelledError):
            await changing
        assert record.state is State.PREPARING
        await blocked


async def test_two_servers_on_one_ledger(tmp_path: Path, world: ScriptedWorld) -> None:
    async with server(tmp_path, world) as first:
        await first.declare("p", [EnvironmentSpec(name="shell")])
        await run(first, "p", "echo mine >file")
        async with server(tmp_path, world) as second:
            waiting = asyncio.ensure_future(first.fenced.wait())
            with pytest.raises(FencedError):
                await first.ended("p", "released")
            await asyncio.wait_for(waiting, PATIENCE_S)
            assert await run(second, "p", "cat file") == "mine"


async def test_hooks_by_http() -> None:
    heads: list[bytes] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heads.append(await reader.readuntil(b"}"))
        writer.write(b"HTTP/1.1 302 Found\r\nlocation: http://elsewhere.invalid/\r\ncontent-length: 0\r\n\r\n")
        await writer.drain()
        writer.close()

    listening = await asyncio.start_server(answer, "127.0.0.1")
    port = listening.sockets[0].getsockname()[1]
    post = JsonPost()
    assert await post(f"http://127.0.0.1:{port}/hook", {"event": "ready"}, PATIENCE_S) == 302  # and does not follow
    assert heads[0].startswith(b"POST /hook HTTP/1.1\r\n")
    assert heads[0].endswith(b'{"event":"ready"}')
    listening.close()
    await listening.wait_closed()
    with pytest.raises(httpx.HTTPError):
        await post(f"http://127.0.0.1:{port}/hook", {}, PATIENCE_S)
    await post.aclose()
