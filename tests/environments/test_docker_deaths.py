"""Hints that a container has ended."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest
from docker_relay import Relay

from thunderagent_core.environments.base import Liveness, Place
from thunderagent_core.environments.docker.deaths import Removals
from thunderagent_core.environments.docker.provider import DockerProvider

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from docker_testbed import DockerBed

WAIT_S = 60.0


async def following(deaths: AsyncIterator[Place]) -> Place | None:
    """Return the next hint; None where there will be none."""
    async with asyncio.timeout(WAIT_S):
        return await anext(deaths, None)


@pytest.mark.real_docker
async def test_a_killed_container_is_named_and_one_that_we_removed_is_not(docker_bed: DockerBed) -> None:
    bed = docker_bed
    provider = DockerProvider(installation=bed.installation, endpoints=(bed.url,))
    for environment in ("e1", "e2", "e3"):
        await provider.create(bed.plan(environment))
    deaths = provider.deaths()
    first = asyncio.ensure_future(following(deaths))
    await asyncio.sleep(0)
    await provider.destroy(bed.place("e1"))
    bed.engine.request("POST", f"/containers/{bed.place('e2').handle}/kill")
    assert await first == bed.place("e2")
    bed.engine.request("DELETE", f"/containers/{bed.place('e3').handle}?force=1")
    assert await following(deaths) == bed.place("e3")
    await provider.aclose()
    while (place := await following(deaths)) is not None:  # it ends with the provider
        assert place == bed.place("e3")  # it died, and it was destroyed


@pytest.mark.real_docker
async def test_containers_of_others_are_no_news(docker_bed: DockerBed) -> None:
    bed = docker_bed
    other = DockerProvider(installation=f"{bed.installation}x", endpoints=(bed.url,))
    foreign = Place(bed.url, f"{bed.place().handle}x")
    await other.create(bed.plan())
    await other.destroy(bed.place())
    deaths = bed.provider.deaths()
    first = asyncio.ensure_future(following(deaths))
    await asyncio.sleep(0)
    await other.create(bed.plan())
    bed.engine.request("POST", f"/containers/{bed.place().handle}/kill")
    await other.destroy(bed.place())
    await bed.provider.create(bed.plan("e2"))
    bed.engine.request("POST", f"/containers/{bed.place('e2').handle}/kill")
    assert await first == bed.place("e2") != foreign
    await other.aclose()


@pytest.mark.real_docker
async def test_what_ended_while_the_daemon_was_away_is_named_when_it_is_back(
    docker_bed: DockerBed, tmp_path: Path
) -> None:
    bed, relay, dead = docker_bed, Relay(tmp_path / "relay.sock", docker_bed.url), f"unix://{tmp_path}/dead.sock"
    await relay.mend()
    provider = DockerProvider(installation=bed.installation, endpoints=(dead, relay.url), timeout_s=5.0)
    await bed.provider.create(bed.plan("e1"))
    await bed.provider.create(bed.plan("e2"))
    deaths = provider.deaths()
    first = asyncio.ensure_future(following(deaths))
    async with asyncio.timeout(WAIT_S):
        await relay.connected.wait()
    await relay.cut()
    bed.engine.request("POST", f"/containers/{bed.place('e1').handle}/kill")
    await relay.mend()
    assert await first == Place(relay.url, bed.place("e1").handle)
    assert (await provider.look(Place(relay.url, bed.place("e1").handle))).liveness is Liveness.STOPPED
    bed.engine.request("POST", f"/containers/{bed.place('e2').handle}/kill")
    while (hint := await following(deaths)) != Place(relay.url, bed.place("e2").handle):
        assert hint == Place(relay.url, bed.place("e1").handle)
    await provider.aclose()
    await relay.cut()


async def test_following_a_dead_daemon_ends_with_the_provider(tmp_path: Path) -> None:
    provider = DockerProvider(installation="none", endpoints=(f"unix://{tmp_path}/dead.sock",), timeout_s=1.0)
    first = asyncio.ensure_future(following(provider.deaths()))
    await asyncio.sleep(0.3)
    assert not first.done()
    await provider.aclose()
    assert await first is None


async def test_following_may_be_given_up(docker_bed: DockerBed) -> None:
    deaths = docker_bed.provider.deaths()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.2):
            await anext(deaths)
    assert await anext(deaths, None) is None


def test_removals_are_remembered_for_a_while() -> None:
    removals = Removals()
    for number in range(10_000):
        removals.add(str(number))
    assert "9999" in removals
    assert "0" not in removals
    assert len(removals._ids) <= 4096
