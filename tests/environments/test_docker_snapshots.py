"""Snapshots: files come back, nothing comes back blank, nothing is left."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from thunderagent_core.environments.base import LABEL_ENVIRONMENT, Kind, Liveness, ProviderError

if TYPE_CHECKING:
    from docker_testbed import DockerBed

pytestmark = pytest.mark.real_docker


def snapshot_name(bed: DockerBed) -> str:
    return f"s-{bed.installation}"


async def test_files_come_back_from_a_snapshot(docker_bed: DockerBed) -> None:
    bed, place, name = docker_bed, docker_bed.place(), snapshot_name(docker_bed)
    await bed.provider.create(bed.plan())
    await bed.shell(
        "echo mine > /workspace/file; mkdir -p /etc/own; ln -s /workspace/file /etc/own/link; rm /etc/passwd"
    )
    await bed.provider.snapshot(place, name, {LABEL_ENVIRONMENT: "e1", "odd": 'a "quoted" $HOME\n'})
    assert (await bed.provider.look(place)).liveness is Liveness.ALIVE
    assert await bed.provider.snapshot_is_whole(bed.url, name)
    assert not await bed.provider.snapshot_is_whole(bed.url, "another")
    labels = bed.engine.request("GET", f"/images/thunderagent/snapshot:{name}/json")[1]["Config"]["Labels"]
    assert labels["odd"] == 'a "quoted" $HOME\n'

    await bed.provider.destroy(place)
    [found] = await bed.provider.survey(bed.url)
    assert (found.kind, found.name, found.environment_id) == (Kind.SNAPSHOT, name, "e1")

    await bed.provider.create(bed.plan(snapshot=name))
    assert await bed.shell("cat /etc/own/link; ls /etc") == (0, "mine\nhostname\nhosts\nmtab\nown\nresolv.conf\n")
    with pytest.raises(ProviderError) as caught:
        await bed.provider.drop_snapshot(bed.url, name)
    assert (caught.value.code, caught.value.permanent) == ("image_in_use", False)
    await bed.provider.destroy(place)
    await bed.provider.drop_snapshot(bed.url, name)
    await bed.provider.drop_snapshot(bed.url, name)
    assert not await bed.provider.snapshot_is_whole(bed.url, name)
    assert bed.engine.leftovers(bed.installation) == []


async def test_a_frozen_one_stays_frozen_and_a_stopped_one_stopped(docker_bed: DockerBed) -> None:
    bed, place, name = docker_bed, docker_bed.place(), snapshot_name(docker_bed)
    await bed.provider.create(bed.plan())
    await bed.provider.freeze(place)
    await bed.provider.snapshot(place, name, {})
    assert (await bed.provider.look(place)).liveness is Liveness.FROZEN
    await bed.provider.thaw(place)
    bed.engine.request("POST", f"/containers/{place.handle}/kill")
    await bed.provider.snapshot(place, name, {})
    assert (await bed.provider.look(place)).liveness is Liveness.STOPPED
    assert len(await bed.provider.survey(bed.url)) == 2


async def test_snapshots_upon_snapshots_leave_no_layers_behind(docker_bed: DockerBed) -> None:
    bed, place, name = docker_bed, docker_bed.place(), snapshot_name(docker_bed)
    await bed.provider.create(bed.plan())
    for turn in range(3):
        await bed.shell(f"echo {turn} >> /workspace/turns")
        await bed.provider.snapshot(place, name, {})
        await bed.provider.destroy(place)
        await bed.provider.create(bed.plan(snapshot=name))
    assert await bed.shell("cat /workspace/turns") == (0, "0\n1\n2\n")
    await bed.provider.destroy(place)
    await bed.provider.drop_snapshot(bed.url, name)
    assert bed.engine.leftovers(bed.installation) == []


async def test_a_newer_snapshot_replaces_an_older(docker_bed: DockerBed) -> None:
    bed, place, name = docker_bed, docker_bed.place(), snapshot_name(docker_bed)
    await bed.provider.create(bed.plan())
    for turn in range(2):
        await bed.shell(f"echo {turn} > /workspace/turn")
        await bed.provider.snapshot(place, name, {})
    assert [kind for kind, _ in bed.engine.leftovers(bed.installation)] == ["containers", "images"]
    await bed.provider.destroy(place)
    await bed.provider.create(bed.plan(snapshot=name))
    assert await bed.shell("cat /workspace/turn") == (0, "1\n")


async def test_cancelling_a_snapshot_leaves_its_source_running(docker_bed: DockerBed) -> None:
    bed, place, name = docker_bed, docker_bed.place(), snapshot_name(docker_bed)
    await bed.provider.create(bed.plan())
    await bed.shell("dd if=/dev/zero of=/workspace/big bs=1M count=30")
    for turn in range(4):
        taking = asyncio.create_task(bed.provider.snapshot(place, name, {}))
        for _ in range(10 * turn):
            await asyncio.sleep(0.002)
        taking.cancel()
        await asyncio.gather(taking, return_exceptions=True)
        await bed.provider.drop_snapshot(bed.url, name)
        assert [found.kind for found in await bed.provider.survey(bed.url)] == [Kind.ENVIRONMENT]
        assert (await bed.provider.look(place)).liveness is Liveness.ALIVE
    taking = asyncio.create_task(bed.provider.snapshot(place, name, {}))
    await asyncio.sleep(0.01)
    taking.cancel()
    await asyncio.gather(taking, return_exceptions=True)
    await bed.provider.destroy(place)
    assert (await bed.provider.look(place)).liveness is Liveness.GONE


async def test_one_with_a_layer_missing_is_not_whole(docker_bed: DockerBed) -> None:
    bed, place, name = docker_bed, docker_bed.place(), snapshot_name(docker_bed)
    await bed.provider.create(bed.plan())
    await bed.provider.snapshot(place, name, {})
    image = bed.engine.request("GET", f"/images/thunderagent/snapshot:{name}/json")[1]
    layer = Path(image["GraphDriver"]["Data"]["UpperDir"])
    hidden = layer.with_name("hidden")
    os.rename(layer, hidden)  # noqa: PTH104
    try:
        assert not await bed.provider.snapshot_is_whole(bed.url, name)
    finally:
        os.rename(hidden, layer)  # noqa: PTH104
    assert await bed.provider.snapshot_is_whole(bed.url, name)


async def test_an_image_of_that_name_that_is_not_ours_is_no_snapshot(docker_bed: DockerBed) -> None:
    bed, name = docker_bed, snapshot_name(docker_bed)
    bed.engine.request("POST", f"/images/{bed.image}/tag?repo=thunderagent/snapshot&tag={name}")
    try:
        assert not await bed.provider.snapshot_is_whole(bed.url, name)
        assert await bed.provider.survey(bed.url) == []
        with pytest.raises(ProviderError) as caught:
            await bed.provider.create(bed.plan(snapshot=name))
        assert caught.value.code == "snapshot_missing"
        await bed.provider.drop_snapshot(bed.url, name)
        assert bed.engine.request("GET", f"/images/thunderagent/snapshot:{name}/json")[0] == 200
    finally:
        bed.engine.request("DELETE", f"/images/thunderagent/snapshot:{name}")
