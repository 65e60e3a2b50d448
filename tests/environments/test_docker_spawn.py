"""Commands in a container: their streams, their end, and the loss of either."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

import pytest

from thunderagent_core.environments.base import ProviderError, Stream

if TYPE_CHECKING:
    from docker_testbed import DockerBed

    from thunderagent_core.environments.base import Process

pytestmark = pytest.mark.real_docker

LARGE = 8 << 20


async def gathered(process: Process) -> dict[Stream, bytes]:
    """Read all output."""
    output = {Stream.STDOUT: b"", Stream.STDERR: b""}
    while (piece := await process.read()) is not None:
        output[piece[0]] += piece[1]
    return output


async def test_streams_arrive_apart_and_the_status_after_them(docker_bed: DockerBed) -> None:
    bed = docker_bed
    await bed.provider.create(bed.plan(env={"OWN": "spec", "OTHER": "kept"}))
    script = "echo $OWN $OTHER; pwd; echo problem >&2; exit 7"
    process = await bed.provider.spawn(bed.place(), ["sh", "-c", script], env={"OWN": "call"}, workdir="/root")
    output = await gathered(process)
    assert output == {Stream.STDOUT: b"call kept\n/root\n", Stream.STDERR: b"problem\n"}
    assert await process.wait() == 7
    with pytest.raises(ProviderError) as caught:
        await process.write(b"too late")
    assert caught.value.code == "process_ended"
    await process.aclose()


async def test_the_input_can_end_while_output_goes_on(docker_bed: DockerBed) -> None:
    bed = docker_bed
    await bed.provider.create(bed.plan())
    process = await bed.provider.spawn(bed.place(), ["sh", "-c", "cat; echo and on"])
    await process.write(b"first ")
    assert await process.read() == (Stream.STDOUT, b"first ")
    await process.write(b"second ")
    await process.close_input()
    await process.close_input()
    with pytest.raises(ProviderError):
        await process.write(b"third")
    assert (await gathered(process))[Stream.STDOUT] == b"second and on\n"
    assert await process.wait() == 0
    await process.aclose()


async def test_much_goes_through_both_ways_at_once(docker_bed: DockerBed) -> None:
    bed = docker_bed
    await bed.provider.create(bed.plan())
    process = await bed.provider.spawn(bed.place(), ["cat"])
    sent = bytes(range(256)) * (LARGE // 256)

    async def feed() -> None:
        for start in range(0, LARGE, 100_000):
            await process.write(sent[start : start + 100_000])
        await process.close_input()

    _, output = await asyncio.gather(feed(), gathered(process))
    assert output[Stream.STDOUT] == sent
    assert await process.wait() == 0
    await process.aclose()


async def test_a_cancelled_read_loses_nothing(docker_bed: DockerBed) -> None:
    bed = docker_bed
    await bed.provider.create(bed.plan())
    script = "for n in 1 2 3 4 5 6 7 8 9; do printf $n; usleep 30000; done"
    process = await bed.provider.spawn(bed.place(), ["sh", "-c", script])
    output, ended = b"", False
    while not ended:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(0.01):
                piece = await process.read()
                ended = piece is None
                output += piece[1] if piece else b""
    assert output == b"123456789"
    await process.aclose()


async def test_each_command_leads_a_session_and_a_signal_shows_in_its_status(docker_bed: DockerBed) -> None:
    bed = docker_bed
    await bed.provider.create(bed.plan())
    status, shown = await bed.shell("cut -d ' ' -f 1,6 /proc/$$/stat; kill -9 $$")
    assert status == 128 + 9
    pid, session = shown.split()
    assert pid == session

    sleeper = await bed.provider.spawn(bed.place(), ["sh", "-c", "echo $$; sleep 600 & sleep 600"])
    first = await sleeper.read()
    assert first is not None
    leader = int(first[1])
    gone = (
        "n=0; while ps | grep -q '[s]leep 600' && [ $n -lt 600 ]; do n=$((n+1)); sleep 0.1; done"  # it takes a moment
    )
    status, shown = await bed.shell(f"kill -TERM -{leader}; {gone}; ps | grep -c '[s]leep 600'")
    assert shown == "0\n"
    assert await sleeper.read() is None
    assert await sleeper.wait() == 128 + 15
    await sleeper.aclose()


async def test_a_command_that_cannot_be_started_says_so(docker_bed: DockerBed) -> None:
    bed = docker_bed
    await bed.provider.create(bed.plan())
    process = await bed.provider.spawn(bed.place(), ["/no/such/program"])
    assert b"no such file" in (await gathered(process))[Stream.STDOUT]
    assert await process.wait() in {126, 127}
    await process.aclose()


async def test_freezing_right_after_a_start_does_not_undo_it(docker_bed: DockerBed) -> None:
    bed, place = docker_bed, docker_bed.place()
    await bed.provider.create(bed.plan())
    for _ in range(5):
        process = await bed.provider.spawn(place, ["sh", "-c", "sleep 0.2; exit 5"])
        await bed.provider.freeze(place)
        await bed.provider.thaw(place)
        assert await process.read() is None
        assert await process.wait() == 5
        await process.aclose()


async def test_what_does_not_run_takes_no_commands(docker_bed: DockerBed) -> None:
    bed, place = docker_bed, docker_bed.place()
    await bed.provider.create(bed.plan())
    await bed.provider.freeze(place)
    with pytest.raises(ProviderError) as caught:
        await bed.provider.spawn(place, ["true"])
    assert (caught.value.code, caught.value.permanent) == ("environment_frozen", False)
    await bed.provider.thaw(place)
    bed.engine.request("POST", f"/containers/{place.handle}/kill")
    for act in (bed.provider.spawn(place, ["true"]), bed.provider.freeze(place), bed.provider.thaw(place)):
        with pytest.raises(ProviderError) as caught:
            await act
        assert (caught.value.code, caught.value.permanent) == ("environment_stopped", False)


async def test_the_end_of_the_container_is_the_end_of_its_commands(docker_bed: DockerBed) -> None:
    bed, place = docker_bed, docker_bed.place()
    await bed.provider.create(bed.plan())
    killed = await bed.provider.spawn(place, ["sleep", "600"])
    bed.engine.request("POST", f"/containers/{place.handle}/kill")
    assert await killed.read() is None
    assert await killed.wait() == 137
    await bed.provider.start(place)
    lost = await bed.provider.spawn(place, ["sleep", "600"])
    await bed.provider.destroy(place)
    assert await lost.read() is None
    with pytest.raises(ProviderError) as caught:
        await lost.wait()
    assert caught.value.code == "process_lost"
    await killed.aclose()
    await lost.aclose()


async def test_more_commands_than_a_client_has_connections_by_default(docker_bed: DockerBed) -> None:
    """One persistent channel for each of many environments must not starve everything else of connections."""
    bed, place = docker_bed, docker_bed.place()
    await bed.provider.create(bed.plan(pids=400, memory_bytes=256 << 20))
    processes = []
    for _ in range(110):
        processes.append(await bed.provider.spawn(place, ["cat"]))  # noqa: PERF401 - one after the other, for the daemon
    assert (await bed.provider.look(place)).liveness == "alive"
    for process in processes:
        await process.aclose()
