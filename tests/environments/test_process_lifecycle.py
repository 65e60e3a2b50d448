"""Life and death of environments of the process provider, beyond the contract of all providers."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
from typing import TYPE_CHECKING

import pytest
from contract import DEADLINE_S, eventually, read_all
from process_bed import Bed, process_bed, text

from thunderagent_core.environments.base import Liveness, ProviderError, ProviderUnavailableError, Stream
from thunderagent_core.environments.process import workshop
from thunderagent_core.environments.process.identity import children
from thunderagent_core.environments.process.provider import ProcessProvider

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path


@pytest.fixture
async def bed() -> AsyncIterator[Bed]:
    async with process_bed() as bed:
        yield bed


async def liveness(bed: Bed, name: str = "e1") -> Liveness:
    return (await bed.provider.look(bed.place(name))).liveness


async def stopped(bed: Bed) -> None:
    """Wait until it has: its processes end one after the other."""

    async def it_is() -> bool:
        return await liveness(bed) is Liveness.STOPPED

    await eventually(it_is)


async def test_a_main_program_runs_with_its_variables_and_directory(bed: Bed) -> None:
    script = "echo said; echo $GIVEN >$PWD/file; exec sleep 1000"
    await bed.create(command=("/bin/sh", "-c", script), env={"GIVEN": "1"}, workdir="/made/here")

    async def written() -> bool:
        return (await bed.sh("cat /made/here/file")).out == b"1\n"

    await eventually(written)
    assert text(bed.directory() / "output.log") == "said\n"


async def test_the_end_of_the_main_program_is_the_end_of_all(bed: Bed) -> None:
    await bed.create(command=("/bin/sh", "-c", "while ! [ -e go ]; do sleep 0.01; done"))
    process = await bed.provider.spawn(bed.place(), ("/bin/sh", "-c", "echo on; sleep 1000"))
    assert await process.read() == (Stream.STDOUT, b"on\n")
    await bed.sh("touch go")  # which ends as well
    assert await process.read() is None
    assert await process.wait() == 128 + 9
    await process.aclose()
    await stopped(bed)
    await bed.provider.destroy(bed.place())


@pytest.mark.parametrize(
    "script", ["echo why >&2; exit 7", "sleep 0.01; echo why >&2; exit 7", "sleep 0.2; echo why >&2; exit 7"]
)
async def test_a_main_program_that_does_not_last(bed: Bed, script: str) -> None:
    caught = None
    try:
        await bed.create(command=("/bin/sh", "-c", script))
    except ProviderError as error:
        caught = error
    if caught is not None:  # it may have been seen running
        assert caught.code == "main_program_ended", str(caught)
    await stopped(bed)
    assert text(bed.directory() / "output.log") == "why\n"
    await bed.provider.destroy(bed.place())
    assert await liveness(bed) is Liveness.GONE


async def test_a_main_program_that_is_not_there(bed: Bed) -> None:
    with pytest.raises(ProviderError) as caught:
        await bed.create(command=("/no/such/program",))
    assert caught.value.code == "command_not_found"
    assert caught.value.permanent
    assert "/no/such/program" in str(caught.value)


@pytest.mark.parametrize(
    ("command", "options", "code"),
    [
        (("no-such-program",), {}, "command_not_found"),
        (("/etc/passwd",), {}, "command_not_found"),
        (("true",), {"workdir": "/no/such/directory"}, "workdir_not_found"),
        (("true",), {"workdir": "/etc/passwd"}, "workdir_not_found"),
    ],
)
async def test_a_command_that_cannot_start(bed: Bed, command: tuple[str, ...], options: dict, code: str) -> None:
    await bed.create()
    with pytest.raises(ProviderError) as caught:
        await bed.provider.spawn(bed.place(), command, **options)
    assert caught.value.code == code
    assert await bed.out("echo on") == "on"


async def test_a_directory_is_relative_to_that_of_the_specification(bed: Bed) -> None:
    await bed.create(workdir="/srv/here")
    await bed.out("mkdir below")
    assert await bed.out("pwd", workdir="below") == "/srv/here/below"
    await bed.out("cd /; rm -rf /work")
    assert await bed.out("pwd") == "/srv/here"


async def test_closing_kills_the_process_group(bed: Bed) -> None:
    await bed.create()
    script = "trap '' TERM HUP; sleep 1000 & echo on; wait"
    process = await bed.provider.spawn(bed.place(), ("/bin/sh", "-c", script))
    assert await process.read() == (Stream.STDOUT, b"on\n")
    await process.aclose()
    assert await process.wait() == 128 + 9
    assert (await bed.sh("ps -eo args | grep '[s]leep 1000'")).status != 0
    with pytest.raises(ProviderError) as caught:
        await process.write(b"more")
    assert caught.value.code == "process_ended"


async def test_a_process_that_reads_no_more(bed: Bed) -> None:
    await bed.create()
    process = await bed.provider.spawn(bed.place(), ("true",))
    with pytest.raises(ProviderError) as caught:
        await process.write(bytes(1 << 24))
    assert caught.value.code == "process_ended"
    await process.aclose()


async def test_closing_ends_the_wait_of_a_writer(bed: Bed) -> None:
    await bed.create()
    process = await bed.provider.spawn(bed.place(), ("sleep", "1000"))
    writing = asyncio.create_task(process.write(bytes(1 << 20)))
    await asyncio.wait([writing], timeout=0.1)
    assert not writing.done()
    await process.aclose()
    with pytest.raises(ProviderError) as caught:
        await asyncio.wait_for(writing, DEADLINE_S)
    assert caught.value.code == "process_ended"


async def test_output_that_nobody_takes_makes_the_command_wait(bed: Bed) -> None:
    await bed.create()
    process = await bed.provider.spawn(bed.place(), ("/bin/sh", "-c", "head -c 4000000 /dev/zero; touch done"))
    first = await process.read()
    assert first is not None
    await asyncio.sleep(0.3)
    assert (await bed.sh("ls done")).status != 0
    size = len(first[1]) + len((await read_all(process)).out)
    assert size == 4_000_000
    await process.aclose()


async def test_the_end_of_the_spawner_ends_commands_and_a_new_one_takes_over(bed: Bed) -> None:
    await bed.create()
    process = await bed.provider.spawn(bed.place(), ("/bin/sh", "-c", "echo on; sleep 1000"))
    assert await process.read() is not None
    spawner = bed.provider._shop.spawner
    assert spawner._process is not None
    os.kill(spawner._process.pid, signal.SIGKILL)
    with pytest.raises(ProviderUnavailableError):
        async with asyncio.timeout(DEADLINE_S):
            await process.wait()
    await process.aclose()
    assert await bed.out("echo on") == "on"
    assert await liveness(bed) is Liveness.ALIVE


async def test_a_port_that_is_taken(bed: Bed) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        taken = server.getsockname()[1]
        with pytest.raises(ProviderError) as caught:
            await bed.create(ports=(80,), host_ports={80: taken})
        assert caught.value.code == "port_taken"
        await bed.provider.destroy(bed.place())
    assert (await bed.create(ports=(80,), host_ports={80: taken})).ports == {80: taken}


@pytest.mark.parametrize(
    ("spec", "code"),
    [
        ({"image": "relative"}, "image_not_found"),
        ({"image": "/etc/passwd"}, "image_not_found"),
        ({"workdir": "/usr/cannot/be/made"}, "sandbox_failed"),
        ({"workdir": "/etc/passwd/below"}, "sandbox_failed"),
        ({"mounts": ({"source": "/no/such/source", "target": "/x"},)}, "mount_source_missing"),
    ],
)
async def test_a_specification_that_cannot_be_met(bed: Bed, spec: dict, code: str) -> None:
    from thunderagent_core.environments.spec import Mount

    mounts = tuple(Mount(**mount) for mount in spec.pop("mounts", ()))
    with pytest.raises(ProviderError) as caught:
        await bed.create(**spec, mounts=mounts)
    assert caught.value.code == code, str(caught.value)
    assert await liveness(bed) is Liveness.STOPPED
    await bed.provider.destroy(bed.place())
    assert await liveness(bed) is Liveness.GONE


@pytest.mark.parametrize("handle", ["thunder-other-e1", "../../etc", "thunder-{}-", "thunder-{}-a/b", "thunder-{}-a~b"])
async def test_a_handle_that_is_none_of_ours(bed: Bed, handle: str) -> None:
    place = bed.place()
    place = type(place)("", handle.format(bed.installation))
    for effect in (bed.provider.destroy, bed.provider.start, bed.provider.freeze):
        with pytest.raises(ProviderError) as caught:
            await effect(place)
        assert caught.value.code == "not_ours"
    assert (await bed.provider.look(place)).liveness is Liveness.UNKNOWN


async def test_a_damaged_record_frees_nothing(bed: Bed) -> None:
    await bed.create()
    meta = bed.directory() / "meta.json"
    content = meta.read_bytes()
    meta.write_bytes(content[:50])
    assert await liveness(bed) is Liveness.UNKNOWN
    with pytest.raises(ProviderError):
        await bed.provider.destroy(bed.place())
    meta.write_bytes(content)
    assert await liveness(bed) is Liveness.ALIVE


async def test_a_number_that_was_given_to_another_process_is_not_taken_for_ours(bed: Bed) -> None:
    """After a restart of the host, or much later, the recorded number may belong to anybody."""
    import msgspec

    await bed.create()
    record = bed.record(bed.place())
    bystander = await asyncio.create_subprocess_exec("sleep", "1000")
    assert record.init is not None
    for forged in (
        msgspec.structs.replace(record.init, pid=bystander.pid),
        msgspec.structs.replace(record.init, boot="another"),
        msgspec.structs.replace(record.init, started=1),
    ):
        changed = msgspec.structs.replace(record, init=forged, monitor=forged)
        (bed.directory() / "meta.json").write_bytes(msgspec.json.encode(changed))
        assert await liveness(bed) is Liveness.STOPPED
    changed = msgspec.structs.replace(record, monitor=msgspec.structs.replace(record.init, pid=bystander.pid))
    (bed.directory() / "meta.json").write_bytes(msgspec.json.encode(changed))
    await bed.provider.destroy(bed.place())
    assert bystander.returncode is None
    bystander.kill()
    await bystander.wait()


async def test_zombies_are_reaped_inside(bed: Bed) -> None:
    await bed.create()
    await bed.out("for i in 1 2 3 4 5; do (setsid sh -c 'sleep 0.05' >/dev/null 2>&1 &) ; done; sleep 0.3")

    async def none() -> bool:
        return (await bed.sh("ps -eo stat | grep '^Z'")).status != 0

    await eventually(none)


async def test_nothing_is_reaped_for_the_host_to_keep(bed: Bed) -> None:
    for _ in range(3):
        await bed.create()
        await bed.provider.destroy(bed.place())
    spawner = bed.provider._shop.spawner._process
    assert spawner is not None

    async def none() -> bool:
        return children(spawner.pid) == []

    await eventually(none)


@pytest.mark.parametrize("step", ["prepare", "start"])
async def test_time_is_bounded(bed: Bed, monkeypatch: pytest.MonkeyPatch, step: str) -> None:
    await bed.provider.rooms()

    async def hang(*_) -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr(bed.provider._making, step, hang)
    bed.provider._timeout_s = 0.05
    with pytest.raises(ProviderUnavailableError):
        await bed.create()
    monkeypatch.undo()
    bed.provider._timeout_s = 30.0
    assert (await bed.create()).liveness is Liveness.ALIVE


async def test_cancelled_anywhere_it_can_be_made_again(bed: Bed) -> None:
    """Cancel a little later each time, until it comes to its end by itself."""
    for step in range(200):
        making = asyncio.create_task(bed.create())
        for _ in range(step):
            await asyncio.sleep(0)
        making.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await making
        if step % 2:
            assert (await bed.create()).liveness is Liveness.ALIVE
            assert await bed.out("echo on") == "on"
        await bed.provider.destroy(bed.place())
        assert bed.leftovers() == []
        if not making.cancelled():
            break


async def test_a_host_without_namespaces_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = tmp_path / "bwrap"
    broken.write_text("#!/bin/sh\necho 'bwrap: No permissions to create new namespace' >&2\nexit 1\n")
    broken.chmod(0o755)
    monkeypatch.setattr(workshop, "find_bubblewrap", lambda: broken)
    provider = ProcessProvider(installation="t1", root=tmp_path / "root")
    for _ in range(2):
        with pytest.raises(ProviderError) as caught:
            await provider.rooms()
        assert caught.value.code == "bubblewrap_unavailable"
        assert caught.value.permanent
        assert "No permissions to create new namespace" in str(caught.value)
    await provider.aclose()


def test_a_host_without_bubblewrap_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(ProviderError) as caught:
        ProcessProvider(installation="t1", root=tmp_path / "root")
    assert caught.value.code == "bubblewrap_unavailable"
