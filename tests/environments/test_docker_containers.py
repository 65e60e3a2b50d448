"""The life of a container, and whatever can come between, on a real engine."""

from __future__ import annotations

import asyncio
import socket
from typing import TYPE_CHECKING, Any

import pytest

from thunderagent_core.environments.base import Kind, Liveness, Place, ProviderError, Sighting
from thunderagent_core.environments.spec import Mount

if TYPE_CHECKING:
    from collections.abc import Iterator

    from docker_testbed import DockerBed

pytestmark = pytest.mark.real_docker


def raw_container(bed: DockerBed, name: str, **more: Any) -> str:
    """Make a container behind the provider's back."""
    status, content = bed.engine.request(
        "POST", f"/containers/create?name={name}", {"Image": bed.image, "Cmd": ["sleep", "600"], **more}
    )
    assert status == 201, content
    return content["Id"]


def remove_raw(bed: DockerBed, name: str) -> None:
    bed.engine.request("DELETE", f"/containers/{name}?force=1&v=1")


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


async def test_a_life(docker_bed: DockerBed) -> None:
    bed, place = docker_bed, docker_bed.place()
    assert (await bed.provider.look(place)).liveness is Liveness.GONE

    assert (await bed.provider.create(bed.plan(workdir="/deep/in/side"))).liveness is Liveness.ALIVE
    assert await bed.shell("pwd; touch /tmp/x here; ls /tmp") == (0, "/deep/in/side\nx\n")
    [found] = await bed.provider.survey(bed.url)
    assert (found.kind, found.name, found.environment_id) == (Kind.ENVIRONMENT, place.handle, "e1")
    assert found.liveness is Liveness.ALIVE

    await bed.provider.freeze(place)
    await bed.provider.freeze(place)
    assert (await bed.provider.look(place)).liveness is Liveness.FROZEN
    await bed.provider.thaw(place)
    await bed.provider.thaw(place)
    assert (await bed.provider.look(place)).liveness is Liveness.ALIVE

    bed.engine.request("POST", f"/containers/{place.handle}/kill")
    assert (await bed.provider.look(place)).liveness is Liveness.STOPPED
    assert (await bed.provider.start(place)).liveness is Liveness.ALIVE
    assert (await bed.provider.start(place)).liveness is Liveness.ALIVE
    assert await bed.shell("ls /tmp") == (0, "x\n")

    await bed.provider.destroy(place)
    assert (await bed.provider.look(place)).liveness is Liveness.GONE
    assert await bed.provider.survey(bed.url) == []
    await bed.provider.destroy(place)


async def test_creating_again_goes_on_from_what_is_there(docker_bed: DockerBed) -> None:
    bed, place = docker_bed, docker_bed.place()
    sightings = await asyncio.gather(*(bed.provider.create(bed.plan()) for _ in range(3)))
    assert {sighting.liveness for sighting in sightings} == {Liveness.ALIVE}
    first = bed.engine.inspect(place.handle)
    assert first is not None
    await bed.shell("echo kept > /tmp/kept")
    bed.engine.request("POST", f"/containers/{place.handle}/kill")
    assert (await bed.provider.create(bed.plan())).liveness is Liveness.ALIVE
    await bed.provider.freeze(place)
    assert (await bed.provider.create(bed.plan())).liveness is Liveness.ALIVE
    assert await bed.shell("cat /tmp/kept") == (0, "kept\n")
    again = bed.engine.inspect(place.handle)
    assert again is not None
    assert again["Id"] == first["Id"]


async def test_one_that_never_started_is_made_again(docker_bed: DockerBed) -> None:
    bed, place = docker_bed, docker_bed.place()
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        taken = holder.getsockname()[1]
        with pytest.raises(ProviderError) as caught:
            await bed.provider.create(bed.plan(ports=(80,), host_ports={80: taken}))
    assert (caught.value.code, caught.value.permanent) == ("port_taken", False)
    assert (await bed.provider.look(place)).liveness is Liveness.STOPPED
    [found] = await bed.provider.survey(bed.url)
    assert found.name == place.handle

    port = free_port()
    sighting = await bed.provider.create(bed.plan(ports=(80,), host_ports={80: port}))
    assert sighting == Sighting(Liveness.ALIVE, "127.0.0.1", {80: port})


async def test_a_port_that_another_container_has_is_taken(docker_bed: DockerBed) -> None:
    bed = docker_bed
    first = await bed.provider.create(bed.plan("e1", ports=(80,)))
    with pytest.raises(ProviderError) as caught:
        await bed.provider.create(bed.plan("e2", ports=(80,), host_ports={80: first.ports[80]}))
    assert caught.value.code == "port_taken"
    await bed.provider.destroy(bed.place("e2"))
    assert (await bed.provider.look(bed.place("e1"))).liveness is Liveness.ALIVE


async def test_ports_are_read_again_after_every_start(docker_bed: DockerBed) -> None:
    bed, place = docker_bed, docker_bed.place()
    program = ("/bin/sh", "-c", "mkdir -p /www; echo served > /www/index.html; exec httpd -f -p 80 -h /www")
    first = await bed.provider.create(bed.plan(ports=(80,), command=program))
    assert await served(first, 80)
    bed.engine.request("POST", f"/containers/{place.handle}/kill")
    assert (await bed.provider.look(place)).ports == {}
    with socket.socket() as holder:  # the daemon must choose another one
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        holder.bind(("127.0.0.1", first.ports[80]))
        holder.listen()
        second = await bed.provider.start(place)
        assert second.ports[80] != first.ports[80]
        assert (await bed.provider.look(place)).ports == second.ports
        assert await served(second, 80)


async def served(sighting: Sighting, port: int) -> bool:
    """Whether what listens inside can be reached from here, waiting for it to listen."""
    async with asyncio.timeout(60):
        while True:
            try:
                reader, writer = await asyncio.open_connection(sighting.host, sighting.ports[port])
                writer.write(b"GET / HTTP/1.0\r\n\r\n")
                answer = await reader.read()
                writer.close()
            except OSError:
                answer = b""
            if answer:
                return b"served" in answer
            await asyncio.sleep(0.05)


async def test_what_is_not_ours_is_not_touched(docker_bed: DockerBed) -> None:
    bed, place = docker_bed, docker_bed.place()
    foreign = raw_container(bed, place.handle, Labels={"org.thunderagent.installation": "another"})
    bed.engine.request("POST", f"/containers/{foreign}/start")
    try:
        assert (await bed.provider.look(place)).liveness is Liveness.UNKNOWN
        assert await bed.provider.survey(bed.url) == []
        acts = [
            bed.provider.create(bed.plan()),
            bed.provider.destroy(place),
            bed.provider.start(place),
            bed.provider.freeze(place),
            bed.provider.thaw(place),
            bed.provider.spawn(place, ["true"]),
            bed.provider.snapshot(place, f"s-{bed.installation}", {}),
        ]
        for act in acts:
            with pytest.raises(ProviderError) as caught:
                await act
            assert (caught.value.code, caught.value.permanent) == ("name_taken", True)
        state = bed.engine.inspect(foreign)
        assert state is not None
        assert state["State"]["Status"] == "running"
    finally:
        remove_raw(bed, foreign)


async def test_one_that_a_person_started_from_what_is_ours_is_not_ours(docker_bed: DockerBed) -> None:
    """Images hand their labels on."""
    bed = docker_bed
    await bed.provider.create(bed.plan())
    await bed.provider.snapshot(bed.place(), f"s-{bed.installation}", {})
    name = f"by-hand-{bed.installation}"
    by_hand = raw_container(bed, name, Image=f"thunderagent/snapshot:s-{bed.installation}")
    try:
        assert sorted(found.kind for found in await bed.provider.survey(bed.url)) == [Kind.ENVIRONMENT, Kind.SNAPSHOT]
        with pytest.raises(ProviderError):
            await bed.provider.destroy(Place(bed.url, name))
        assert bed.engine.inspect(by_hand) is not None
    finally:
        remove_raw(bed, by_hand)


@pytest.fixture
def image_with_volume(docker_bed: DockerBed) -> Iterator[str]:
    """An image that declares a volume."""
    bed, repository = docker_bed, "thunderagent-test/volume"
    made = raw_container(bed, f"maker-{bed.installation}")
    query = f"container={made}&repo={repository}&tag={bed.installation}&changes=VOLUME%20/data"
    status, content = bed.engine.request("POST", f"/commit?{query}")
    remove_raw(bed, made)
    assert status == 201, content
    yield f"{repository}:{bed.installation}"
    remove_raw(bed, bed.place().handle)
    bed.engine.request("DELETE", f"/images/{repository}:{bed.installation}")


async def test_anonymous_volumes_go_with_their_container(docker_bed: DockerBed, image_with_volume: str) -> None:
    bed, place = docker_bed, docker_bed.place()
    await bed.provider.create(bed.plan(image=image_with_volume))
    await bed.shell("echo x > /data/x")
    assert [kind for kind, _ in bed.engine.leftovers(bed.installation)] == ["containers", "volumes"]
    with pytest.raises(ProviderError) as caught:  # it would come back without them
        await bed.provider.snapshot(place, f"s-{bed.installation}", {})
    assert caught.value.code == "snapshot_impossible"
    await bed.provider.destroy(place)
    assert bed.engine.leftovers(bed.installation) == []


async def test_volumes_that_outlived_their_container_are_found_and_removed(
    docker_bed: DockerBed, image_with_volume: str
) -> None:
    bed, place = docker_bed, docker_bed.place()
    await bed.provider.create(bed.plan(image=image_with_volume))
    bed.engine.request("DELETE", f"/containers/{place.handle}?force=1")
    [remnant] = await bed.provider.survey(bed.url)
    assert (remnant.name, remnant.environment_id, remnant.liveness) == (place.handle, "e1", Liveness.GONE)
    await bed.provider.destroy(place)
    assert await bed.provider.survey(bed.url) == []


@pytest.mark.parametrize("state", ["frozen", "stopped", "created"])
async def test_destroying_works_in_every_state(docker_bed: DockerBed, state: str) -> None:
    bed, place = docker_bed, docker_bed.place()
    await bed.provider.create(bed.plan())
    process = await bed.provider.spawn(place, ["sleep", "600"])
    if state == "frozen":
        await bed.provider.freeze(place)
    elif state == "stopped":
        bed.engine.request("POST", f"/containers/{place.handle}/kill")
    else:
        remove_raw(bed, place.handle)
        labels = {"org.thunderagent.installation": bed.installation, "org.thunderagent.handle": place.handle}
        raw_container(bed, place.handle, Labels=labels)
    await bed.provider.destroy(place)
    assert bed.engine.inspect(place.handle) is None
    await process.aclose()


async def test_several_destroy_the_same_at_once(docker_bed: DockerBed) -> None:
    bed, place = docker_bed, docker_bed.place()
    await bed.provider.create(bed.plan(network=True))
    await asyncio.gather(*(bed.provider.destroy(place) for _ in range(4)))
    assert bed.engine.leftovers(bed.installation) == []


async def test_a_cancelled_creation_leaves_nothing_that_destroying_would_miss(docker_bed: DockerBed) -> None:
    bed = docker_bed
    for number in range(12):  # cancelled after more and more steps
        creation = asyncio.create_task(bed.provider.create(bed.plan(f"e{number}", network=number % 2 == 0)))
        for _ in range(3 * number):
            await asyncio.sleep(0.002)
        creation.cancel()
        await asyncio.gather(creation, return_exceptions=True)
        await bed.provider.destroy(bed.place(f"e{number}"))
        assert bed.engine.inspect(bed.place(f"e{number}").handle) is None
    assert bed.engine.leftovers(bed.installation) == []


async def test_the_network_is_there_while_it_is_used(docker_bed: DockerBed) -> None:
    bed = docker_bed
    await bed.provider.create(bed.plan("e1", network=True))
    await bed.provider.create(bed.plan("e2", ports=(80,)))
    await bed.provider.create(bed.plan("e3"))
    for number, kept in ((1, True), (3, True), (2, False)):
        await bed.provider.destroy(bed.place(f"e{number}"))
        assert ("networks" in dict(bed.engine.leftovers(bed.installation))) == kept


async def test_a_stopped_one_gets_its_network_back(docker_bed: DockerBed) -> None:
    bed, place = docker_bed, docker_bed.place()
    await bed.provider.create(bed.plan(ports=(80,)))
    bed.engine.request("POST", f"/containers/{place.handle}/kill")
    assert bed.engine.request("DELETE", f"/networks/thunder-{bed.installation}")[0] == 204
    assert (await bed.provider.start(place)).ports.keys() == {80}


async def test_a_main_program_that_ends_at_once_is_an_error_that_says_why(docker_bed: DockerBed) -> None:
    bed = docker_bed
    plan = bed.plan(command=("/bin/sh", "-c", "echo no such thing; exit 3"))

    async def until_it_fails() -> None:
        while True:  # it may not have ended yet when it is looked at
            await bed.provider.create(plan)

    with pytest.raises(ProviderError, match="no such thing") as caught:
        await until_it_fails()
    assert (caught.value.code, caught.value.permanent) == ("main_program_ended", True)


async def test_what_cannot_be_made_is_said(docker_bed: DockerBed) -> None:
    bed = docker_bed
    plans = {
        "mount_source_missing": bed.plan(mounts=(Mount(source="/no/such/place", target="/x"),)),
        "image_required": bed.plan(image=None),
        "snapshot_missing": bed.plan(snapshot="never-taken"),
    }
    for code, plan in plans.items():
        with pytest.raises(ProviderError) as caught:
            await bed.provider.create(plan)
        assert (caught.value.code, caught.value.permanent) == (code, True)
    place = bed.place("never-made")
    for act in (bed.provider.start(place), bed.provider.freeze(place), bed.provider.spawn(place, ["true"])):
        with pytest.raises(ProviderError) as caught:
            await act
        assert caught.value.code == "environment_gone"


async def test_disk_is_measured_by_blocks(docker_bed: DockerBed) -> None:
    bed, place = docker_bed, docker_bed.place()
    await bed.provider.create(bed.plan())
    before = await bed.provider.disk_bytes(place)
    assert before is not None
    assert before < 1 << 20
    await bed.shell("dd if=/dev/zero of=/workspace/big bs=1M count=20; ln big /workspace/same; sync")
    after = await bed.provider.disk_bytes(place)
    assert after is not None
    assert 20 << 20 <= after - before < 22 << 20
