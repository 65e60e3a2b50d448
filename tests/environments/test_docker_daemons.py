"""Daemons that are dead, hang, come back or are none: what is certain is told from what is not."""

from __future__ import annotations

import asyncio
import sys
import time
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from docker_relay import Relay

from thunderagent_core.environments.base import Liveness, Place, ProviderError, ProviderUnavailableError
from thunderagent_core.environments.docker.daemon import Daemon
from thunderagent_core.environments.docker.provider import DockerProvider

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from docker_testbed import DockerBed

PLACE = "thunder-none-e1"


@pytest.fixture
async def relay(docker_bed: DockerBed, tmp_path: Path) -> AsyncIterator[Relay]:
    """A relay before the real daemon."""
    relay = Relay(tmp_path / "relay.sock", docker_bed.url)
    await relay.mend()
    yield relay
    await relay.cut()


@pytest.fixture
async def through(relay: Relay, docker_bed: DockerBed) -> AsyncIterator[DockerProvider]:
    """A provider of the same installation that reaches the daemon through the relay."""
    provider = DockerProvider(installation=docker_bed.installation, endpoints=(relay.url,), timeout_s=1.0)
    yield provider
    await provider.aclose()


@pytest.mark.parametrize("url", ["/var/run/docker.sock", "unix://", "unix://run/x", "ssh://host", "tcp://host", ""])
def test_an_address_that_cannot_be_one_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match="Docker endpoint"):
        DockerProvider(installation="x", endpoints=(url,))


def test_endpoints_are_named_once() -> None:
    for endpoints in ((), ("unix:///a", "unix:///a")):
        with pytest.raises(ValueError, match="different Docker endpoints"):
            DockerProvider(installation="x", endpoints=endpoints)


@pytest.mark.parametrize(
    ("url", "local", "host"),
    [
        ("unix:///a", True, "127.0.0.1"),
        ("tcp://127.0.0.1:2375", True, "127.0.0.1"),
        ("tcp://localhost:2375", True, "127.0.0.1"),
        ("tcp://10.1.2.3:2375", False, "10.1.2.3"),
        ("tcp://[fd00::1]:2375", False, "fd00::1"),
    ],
)
async def test_ports_are_published_where_the_daemon_is_reached(url: str, local: bool, host: str) -> None:
    daemon = Daemon(url, timeout_s=1.0, effect_timeout_s=1.0)
    assert (daemon.local, daemon.host, await daemon.publish_at()) == (local, host, host)


def test_without_the_library_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "aiodocker", None)
    with pytest.raises(ProviderError, match=r"thunderagent\[docker\]") as caught:
        DockerProvider(installation="x")
    assert (caught.value.code, caught.value.permanent) == ("docker_not_installed", True)


async def every_act_is_unavailable(provider: DockerProvider, endpoint: str) -> None:
    """Check that nothing is taken for certain."""
    place = Place(endpoint, PLACE)
    assert (await provider.look(place)).liveness is Liveness.UNKNOWN
    for act in (
        provider.rooms(),
        provider.survey(endpoint),
        provider.start(place),
        provider.freeze(place),
        provider.spawn(place, ["true"]),
        provider.snapshot(place, "s", {}),
        provider.snapshot_is_whole(endpoint, "s"),
        provider.drop_snapshot(endpoint, "s"),
        provider.destroy(place),
        provider.disk_bytes(place),
    ):
        with pytest.raises(ProviderUnavailableError):
            await act


async def test_a_dead_daemon_makes_everything_unknown(tmp_path: Path) -> None:
    url = f"unix://{tmp_path}/nobody.sock"
    provider = DockerProvider(installation="none", endpoints=(url,), timeout_s=1.0)
    await every_act_is_unavailable(provider, url)
    await provider.aclose()


async def test_a_daemon_that_hangs_makes_everything_unknown(tmp_path: Path) -> None:
    relay = Relay(tmp_path / "relay.sock", "unix:///nowhere")
    await relay.hang()
    provider = DockerProvider(installation="none", endpoints=(relay.url,), timeout_s=0.1, effect_timeout_s=0.1)
    await every_act_is_unavailable(provider, relay.url)
    await provider.aclose()
    await relay.cut()


@pytest.mark.parametrize("answer", [b"SSH-2.0-x\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi", b""])
async def test_what_is_no_docker_daemon_makes_everything_unknown(tmp_path: Path, answer: bytes) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer)
        writer.close()

    async with await asyncio.start_unix_server(serve, tmp_path / "other.sock"):
        url = f"unix://{tmp_path}/other.sock"
        provider = DockerProvider(installation="none", endpoints=(url,), timeout_s=5.0)
        await every_act_is_unavailable(provider, url)
        await provider.aclose()


async def test_an_endpoint_that_is_not_configured_any_more_frees_nothing() -> None:
    provider = DockerProvider(installation="none")
    assert (await provider.look(Place("tcp://10.0.0.1:2375", PLACE))).liveness is Liveness.UNKNOWN
    with pytest.raises(ProviderUnavailableError, match="configured"):
        await provider.destroy(Place("tcp://10.0.0.1:2375", PLACE))
    await provider.aclose()


async def test_a_closed_provider_asks_nobody(docker_bed: DockerBed) -> None:
    provider = DockerProvider(installation="none", endpoints=(docker_bed.url,))
    assert await provider.survey(docker_bed.url) == []
    await provider.aclose()
    await provider.aclose()
    assert (await provider.look(Place(docker_bed.url, PLACE))).liveness is Liveness.UNKNOWN


@pytest.mark.real_docker
async def test_dead_and_hanging_daemons_do_not_stop_the_others(docker_bed: DockerBed, tmp_path: Path) -> None:
    hanging = Relay(tmp_path / "hanging.sock", docker_bed.url)
    await hanging.hang()
    dead = f"unix://{tmp_path}/dead.sock"
    endpoints = (dead, hanging.url, docker_bed.url)
    provider = DockerProvider(installation=docker_bed.installation, endpoints=endpoints, timeout_s=3.0)
    begun = time.monotonic()
    [room] = await provider.rooms()
    assert time.monotonic() - begun < 60
    assert (room.endpoint, room.environments) == (docker_bed.url, 0)
    assert 0 < room.free_disk_bytes < 1 << 60
    assert (await provider.create(docker_bed.plan())).liveness is Liveness.ALIVE
    assert [room.environments for room in await provider.rooms()] == [1]
    await provider.aclose()
    await hanging.cut()


@pytest.mark.real_docker
async def test_a_daemon_that_comes_back_is_used_again(
    docker_bed: DockerBed, relay: Relay, through: DockerProvider
) -> None:
    place = Place(relay.url, docker_bed.place().handle)
    await docker_bed.provider.create(docker_bed.plan())
    process = await through.spawn(place, ["cat"])
    for interrupt in (relay.cut, relay.hang):
        assert (await through.look(place)).liveness is Liveness.ALIVE
        await interrupt()
        assert (await through.look(place)).liveness is Liveness.UNKNOWN
        with pytest.raises(ProviderUnavailableError):
            await through.destroy(place)
        await relay.mend()
    assert (await through.look(place)).liveness is Liveness.ALIVE
    assert await process.read() is None
    await process.aclose()
    await through.destroy(place)
    assert (await through.look(place)).liveness is Liveness.GONE


@pytest.mark.real_docker
async def test_a_daemon_at_a_tcp_port(docker_bed: DockerBed) -> None:
    relay = Relay(None, docker_bed.url)
    await relay.mend()
    provider = DockerProvider(installation=docker_bed.installation, endpoints=(relay.url,))
    place = Place("", docker_bed.place().handle)  # it has only one
    await provider.create(replace(docker_bed.plan(ports=(80,)), place=place))
    process = await provider.spawn(place, ["cat"])
    await process.write(b"there and back")
    await process.close_input()
    assert await process.read() == ("stdout", b"there and back")
    assert await process.read() is None
    assert await process.wait() == 0
    await process.aclose()
    assert (await provider.look(place)).ports.keys() == {80}
    await provider.aclose()
    await relay.cut()
