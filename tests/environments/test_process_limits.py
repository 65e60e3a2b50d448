"""Limits and freezing: by the control groups of this host, and without any."""

from __future__ import annotations

import asyncio
import os
import time
import uuid
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from contract import eventually
from process_bed import Bed, process_bed, text

from thunderagent_core.environments.base import Liveness, ProviderError
from thunderagent_core.environments.process.cgroups import Cgroups, detect_cgroups

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

MEBIBYTE = 1 << 20
FORKS = "n=0; while [ $n -lt 60 ]; do sleep 1000 & n=$((n+1)); done 2>/dev/null; echo never"


def second_version() -> str | None:
    """Return the line of this host's mounts that version 2 of control groups is mounted by."""
    lines = [line for line in text("/proc/self/mountinfo").splitlines() if " - cgroup2 " in line]
    return lines[0] if lines and os.geteuid() == 0 else None


def groups(kind: str, installation: str) -> Cgroups | None:
    if kind == "none":
        return Cgroups({}, unified=True)
    if kind == "second version":
        return detect_cgroups(installation, second_version() or "")
    return None


@pytest.fixture(params=["this host's", "second version", "none"])
async def bed(request: pytest.FixtureRequest) -> AsyncIterator[Bed]:
    installation = f"t{uuid.uuid4().hex[:10]}"
    async with process_bed(installation=installation, cgroups=groups(request.param, installation)) as bed:
        yield bed


async def running(bed: Bed) -> int:
    return int(await bed.out("ls -d /proc/[0-9]* | wc -l"))


async def test_processes_are_limited(bed: Bed) -> None:
    await bed.create(pids=16)
    process = await bed.provider.spawn(bed.place(), ("/bin/sh", "-c", FORKS))
    await process.close_input()

    async def full() -> bool:
        init = bed.record(bed.place()).init
        assert init is not None
        return 12 <= len(members(init.pid)) <= 16

    await eventually(full)
    await asyncio.sleep(0.2)
    assert await full()
    await bed.provider.destroy(bed.place())
    await process.aclose()


def members(init: int) -> list[Path]:
    """Return the processes in the pid namespace of another."""
    namespace = Path(f"/proc/{init}/ns/pid").readlink()
    return [path for path in Path("/proc").iterdir() if path.name.isdigit() and link(path / "ns/pid") == namespace]


def link(path: Path) -> Path | None:
    try:
        return path.readlink()
    except OSError:
        return None


async def test_memory_is_limited(bed: Bed) -> None:
    await bed.create(memory_bytes=64 * MEBIBYTE)
    take = "import sys; taken = bytearray(int(sys.argv[1]) << 20); print(len(taken) >> 20)"
    python = await bed.out("command -v python3")
    assert await bed.out(f"{python} -c '{take}' 16") == "16"
    assert (await bed.sh(f"{python} -c '{take}' 200")).status != 0
    assert await bed.out("echo on") == "on"


async def test_what_is_limited_for_a_whole_environment_is_told(bed: Bed) -> None:
    await bed.create(memory_bytes=64 * MEBIBYTE, pids=20, cpus=0.5)
    assert bed.provider.limits <= {"memory", "pids", "cpu"}
    found = {name: text(path) for path in bed.groups(bed.place().handle) for name, path in limit_files(path)}
    expected = {"memory": "67108864\n", "pids": "21\n", "cpu": "50000\n"}
    assert {name: found[name] for name in bed.provider.limits} == {name: expected[name] for name in bed.provider.limits}


def limit_files(group: Path) -> list[tuple[str, Path]]:
    names = {"memory.limit_in_bytes": "memory", "memory.max": "memory", "pids.max": "pids", "cpu.cfs_quota_us": "cpu"}
    return [(what, group / name) for name, what in names.items() if (group / name).exists()]


async def test_processor_time_is_limited_where_the_host_can(bed: Bed) -> None:
    await bed.create(cpus=0.1)
    spin = await bed.provider.spawn(bed.place(), ("/bin/sh", "-c", "while :; do :; done"))
    begun = time.monotonic()
    await asyncio.sleep(1.0)
    init = bed.record(bed.place()).init
    assert init is not None
    ticks = sum(map(spent, members(init.pid)))
    share = ticks / os.sysconf("SC_CLK_TCK") / (time.monotonic() - begun)
    if "cpu" in bed.provider.limits:
        assert share < 0.3
    await spin.aclose()


def spent(process: Path) -> int:
    fields = text(process / "stat").rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])


async def test_frozen_it_stands_still_with_all_its_processes(bed: Bed) -> None:
    await bed.create()
    count = "n=0; while :; do n=$((n+1)); echo $n >/workspace/$1.new; mv /workspace/$1.new /workspace/$1; done"
    for name in ("one", "two"):
        await bed.out(f"setsid sh -c '{count}' sh {name} >/dev/null 2>&1 &")

    async def counting() -> bool:
        return (await bed.sh("cat one two")).status == 0

    await eventually(counting)
    await bed.provider.freeze(bed.place())
    assert (await bed.another().look(bed.place())).liveness is Liveness.FROZEN
    before = counts(bed)
    await asyncio.sleep(0.2)
    assert counts(bed) == before
    with pytest.raises(ProviderError) as caught:
        await bed.provider.spawn(bed.place(), ("true",))
    assert caught.value.code == "environment_frozen"
    await bed.another().thaw(bed.place())
    assert (await bed.provider.look(bed.place())).liveness is Liveness.ALIVE

    async def going_on() -> bool:
        return all(now > then for now, then in zip(counts(bed), before, strict=True))

    await eventually(going_on)


def counts(bed: Bed) -> list[int]:
    return [int(text(bed.upper() / "workspace" / name) or 0) for name in ("one", "two")]


async def test_frozen_it_can_be_destroyed(bed: Bed) -> None:
    await bed.create()
    process = await bed.provider.spawn(bed.place(), ("/bin/sh", "-c", "echo on; sleep 1000"))
    assert await process.read() is not None
    await bed.provider.freeze(bed.place())
    await bed.another().destroy(bed.place())
    assert bed.leftovers() == []
    assert await process.read() is None
    assert await process.wait() == 128 + 9
    await process.aclose()


async def test_frozen_and_killed_it_can_be_started(bed: Bed) -> None:
    await bed.create()
    await bed.out("echo kept >file")
    await bed.provider.freeze(bed.place())
    init = bed.record(bed.place()).init
    assert init is not None
    os.kill(init.pid, 9)
    assert (await bed.create()).liveness is Liveness.ALIVE
    assert await bed.out("cat file") == "kept"


async def test_a_command_that_is_closed_while_frozen_ends_when_thawed(bed: Bed) -> None:
    await bed.create()
    process = await bed.provider.spawn(bed.place(), ("/bin/sh", "-c", "echo on; sleep 1000"))
    assert await process.read() is not None
    await bed.provider.freeze(bed.place())
    await process.aclose()
    await bed.provider.thaw(bed.place())
    assert await process.wait() == 128 + 9
    assert (await bed.sh("ps -eo args | grep '[s]leep 1000'")).status != 0


async def test_frozen_while_a_command_starts(bed: Bed) -> None:
    """Whatever comes first, nothing else is held up by it."""
    await bed.create("e1")
    await bed.create("e2")
    for _ in range(5):
        starting = asyncio.create_task(bed.out("echo on", "e1"))
        await asyncio.sleep(0)
        await bed.provider.freeze(bed.place("e1"))
        assert await bed.out("echo on", "e2") == "on"
        await bed.provider.thaw(bed.place("e1"))
        try:
            assert await starting == "on"
        except ProviderError as error:
            assert error.code == "environment_frozen"  # noqa: PT017 - both are right
