"""The server is killed after each step of what it does to an environment; a new one finds all, and loses nothing."""

from __future__ import annotations

import asyncio
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from contract import DEADLINE_S, eventually
from process_bed import Bed, process_bed

from thunderagent_core.environments.base import Kind, Liveness

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

VICTIM = Path(__file__).with_name("process_victim.py")
NEVER = 1_000_000


@pytest.fixture
async def bed() -> AsyncIterator[Bed]:
    async with process_bed() as bed:
        yield bed


async def fall(bed: Bed, what: str, step: int) -> int | None:
    """Let a server do something and be killed at a step; the number of steps where it came to the end first."""
    victim = await asyncio.create_subprocess_exec(
        sys.executable, VICTIM, bed.root, bed.installation, what, str(step), stdout=asyncio.subprocess.PIPE
    )
    async with asyncio.timeout(DEADLINE_S):
        said, _ = await victim.communicate()
    words = said.split()
    assert words[0] == b"begun"
    assert victim.returncode == (0 if len(words) > 1 else -signal.SIGKILL)
    return int(words[2]) if len(words) > 1 else None


async def prepare(bed: Bed, what: str) -> None:
    """Make what an operation needs; what is used holds a file that must not be lost."""
    if what == "create":
        return
    await bed.create()
    await bed.out("echo kept >file; mkdir -p deep/er; echo x >deep/er/file; rm -rf deep/er")
    if what in {"restore", "drop"}:
        await bed.provider.snapshot(bed.place(), "s1", bed.labels())
    if what == "restore":
        await bed.provider.destroy(bed.place())
    elif what == "start":
        await bed.kill(bed.place())


async def check(bed: Bed, what: str) -> None:
    """See that a new server can go on from there."""
    provider = bed.provider = bed.another()
    liveness = (await provider.look(bed.place())).liveness
    assert liveness is not Liveness.UNKNOWN
    found = await provider.survey("")
    environments = [one for one in found if one.kind is Kind.ENVIRONMENT]
    assert {one.environment_id for one in found} <= {"e1"}
    if what in {"destroy", "drop"}:
        await (provider.destroy(bed.place()) if what == "destroy" else provider.drop_snapshot("", "s1"))
        return
    if what in {"start", "snapshot", "freeze"}:
        assert [one.liveness for one in environments] == [liveness]
        assert liveness is not Liveness.GONE
    if what == "snapshot":
        whole = await provider.snapshot_is_whole("", "s1")
        await provider.snapshot(bed.place(), "s1", bed.labels())
        assert whole in {True, False}
        assert await provider.snapshot_is_whole("", "s1")
    again = await bed.create(snapshot="s1" if what == "restore" else None)
    assert again.liveness is Liveness.ALIVE
    assert await bed.out("cat file || echo blank") == ("blank" if what == "create" else "kept")
    assert (await provider.survey(""))[0].liveness is Liveness.ALIVE


@pytest.mark.parametrize("what", ["create", "start", "restore", "snapshot", "freeze", "destroy", "drop"])
async def test_killed_at_every_step(bed: Bed, what: str) -> None:
    await prepare(bed, what)
    steps = await fall(bed, what, NEVER)
    assert steps is not None
    await check(bed, what)
    await bed.reclaim()
    for step in range(steps):
        await prepare(bed, what)
        await fall(bed, what, step)
        if step % 2:
            await check(bed, what)
        await bed.reclaim()
        assert bed.leftovers() == [], f"{what}, killed at step {step}"
    sys.stdout.write(f"{what}: {steps} steps\n")


async def test_sandboxes_outlive_the_server_and_its_commands_do_not(bed: Bed) -> None:
    await bed.create()
    await bed.out("nohup sleep 1000 >/dev/null 2>&1 & echo kept >file")
    process = await bed.provider.spawn(bed.place(), ("/bin/sh", "-c", "echo on; sleep 2000; true"))
    assert await process.read() is not None
    spawner = bed.provider._shop.spawner
    assert spawner._socket is not None
    spawner._lose()  # as the end of the server looks to the spawner
    await process.aclose()
    second = bed.provider = bed.another()
    assert (await second.look(bed.place())).liveness is Liveness.ALIVE
    assert await bed.out("cat file") == "kept"
    assert (await bed.sh("ps -eo args | grep '[s]leep 1000'")).status == 0

    async def none() -> bool:
        return (await bed.sh("ps -eo args | grep '[s]leep 2000'")).status != 0

    await eventually(none)
    deaths = second.deaths()
    await bed.kill(bed.place())
    async with asyncio.timeout(DEADLINE_S):
        assert await anext(deaths) == bed.place()


async def test_everything_of_the_server_is_killed_at_once(bed: Bed) -> None:
    """Server and spawner share a fate when the whole service is killed; only the sandbox stays."""
    await prepare(bed, "freeze")
    spawner = bed.provider._shop.spawner._process
    assert spawner is not None
    spawner.kill()
    bed.provider = bed.another()
    assert await bed.out("cat file") == "kept"
    assert (await bed.create()).liveness is Liveness.ALIVE


async def test_a_sandbox_whose_record_was_never_completed_is_found(bed: Bed) -> None:
    """Killed between the start of bubblewrap and its being written down."""
    import msgspec

    await bed.create()
    record = bed.record(bed.place())
    lost = msgspec.structs.replace(record, init=None, monitor=None, launching=True)
    (bed.directory() / "meta.json").write_bytes(msgspec.json.encode(lost))
    for groups in bed.groups(bed.place().handle):
        assert groups.exists()
    bed.provider = bed.another()
    assert (await bed.provider.look(bed.place())).liveness is Liveness.STOPPED
    assert (await bed.create()).liveness is Liveness.ALIVE
    assert bed.record(bed.place()).init != record.init
    assert len(list(bed.leftovers())) >= 1


async def test_what_runs_inside_cannot_pass_for_a_sandbox(bed: Bed) -> None:
    """The marker in a variable must not let one environment have another's processes killed."""
    from thunderagent_core.environments.process.identity import marked_processes

    await bed.create("e1")
    await bed.create("e2")
    marker = bed.provider._shop.host.marker(bed.place("e1").handle)
    process = await bed.provider.spawn(
        bed.place("e2"), ("/bin/sh", "-c", "echo on; sleep 1000"), env={"THUNDER_SANDBOX": marker}
    )
    assert await process.read() is not None
    found = marked_processes(marker)
    record = bed.record(bed.place("e1"))
    assert set(found) == {record.monitor, record.init}
    await process.aclose()
