"""The parts of the Docker provider that only compute."""

from __future__ import annotations

import asyncio
import io
import os
import tarfile
from typing import TYPE_CHECKING, Any

import pytest

from thunderagent_core.environments.base import (
    LABEL_ENVIRONMENT,
    LABEL_INSTALLATION,
    Liveness,
    Place,
    Plan,
    ProviderUnavailableError,
)
from thunderagent_core.environments.docker.configuration import container_request
from thunderagent_core.environments.docker.context import IgnoreRules, write_context
from thunderagent_core.environments.docker.disk import allocated_bytes, free_bytes
from thunderagent_core.environments.docker.errors import refusal
from thunderagent_core.environments.docker.inspection import liveness_of, published_ports
from thunderagent_core.environments.docker.marks import LABEL_HANDLE, LABEL_SNAPSHOT, Marks
from thunderagent_core.environments.docker.underway import Underway
from thunderagent_core.environments.spec import EnvironmentSpec, Mount

if TYPE_CHECKING:
    from pathlib import Path


def request_for(volumes: tuple[str, ...] = (), **spec: Any) -> dict[str, Any]:
    plan = Plan(place=Place("", "h"), labels={}, spec=EnvironmentSpec(name="x", **spec))
    return container_request(
        plan, image="sha256:1", labels={"a": "b"}, volumes=volumes, network="own", publish_at="127.0.0.1"
    )


def test_what_every_container_gets() -> None:
    request = request_for(env={"A": "1=2"}, memory_bytes=1 << 26, cpus=0.5, pids=9)
    host = request["HostConfig"]
    assert request["Env"] == ["A=1=2"]
    assert request["Entrypoint"][0] == "/bin/sh"
    assert request["Labels"] == {"a": "b"}
    assert (host["Init"], host["AutoRemove"], host["NetworkMode"]) == (True, False, "none")
    assert (host["CapDrop"], host["SecurityOpt"]) == (["ALL"], ["no-new-privileges:true"])
    assert (host["Memory"], host["MemorySwap"], host["PidsLimit"]) == (1 << 26, 1 << 26, 9)
    assert host["CpuQuota"] / host["CpuPeriod"] == 0.5


def test_a_command_replaces_whatever_the_image_would_run() -> None:
    request = request_for(command=("serve", "--port", "80"))
    assert (request["Entrypoint"], request["Cmd"]) == (["serve", "--port", "80"], [])


def test_ports_are_published_at_one_address_and_where_they_were_leased() -> None:
    spec = EnvironmentSpec(name="x", ports=(80, 81))
    plan = Plan(place=Place("", "h"), labels={}, spec=spec, ports={80: 4000, 81: 0})
    request = container_request(plan, image="i", labels={}, volumes=(), network="own", publish_at="127.0.0.1")
    assert request["ExposedPorts"] == {"80/tcp": {}, "81/tcp": {}}
    assert request["HostConfig"]["NetworkMode"] == "own"
    assert request["HostConfig"]["PortBindings"] == {
        "80/tcp": [{"HostIp": "127.0.0.1", "HostPort": "4000"}],
        "81/tcp": [{"HostIp": "127.0.0.1", "HostPort": ""}],
    }


def test_mounts_cannot_be_written_and_volumes_carry_labels() -> None:
    [mount, volume] = request_for(("/data",), mounts=(Mount(source="/s", target="/t"),))["HostConfig"]["Mounts"]
    assert (mount["Source"], mount["Target"], mount["ReadOnly"]) == ("/s", "/t", True)
    assert mount["BindOptions"] == {"NonRecursive": True}
    assert volume == {"Type": "volume", "Target": "/data", "VolumeOptions": {"Labels": {"a": "b"}}}


def test_the_installation_alone_decides_what_is_ours() -> None:
    marks = Marks("mine")
    plan = Plan(
        place=Place("", "h"),
        labels={LABEL_INSTALLATION: "yours", LABEL_ENVIRONMENT: "e1"},
        spec=EnvironmentSpec(name="x"),
        snapshot="s",
    )
    labels = marks.for_container(plan)
    assert labels == {
        LABEL_INSTALLATION: "mine",
        LABEL_ENVIRONMENT: "e1",
        LABEL_HANDLE: "h",
        LABEL_SNAPSHOT: "s",
    }
    assert marks.owns_container(labels, "h")
    assert not marks.owns_container(labels, "other")
    assert not marks.owns_container(None, "h")
    assert not Marks("yours").owns_container(labels, "h")


@pytest.mark.parametrize(
    ("labels", "tags", "ours"),
    [
        ({}, ["thunderagent/snapshot:s"], True),
        ({}, [], True),
        ({}, ["<none>:<none>"], True),
        ({}, None, True),
        ({}, ["theirs:1"], False),
        ({LABEL_INSTALLATION: "yours"}, [], False),
        ({LABEL_HANDLE: "h"}, [], False),
        ({LABEL_SNAPSHOT: ""}, [], False),
    ],
)
def test_an_image_that_a_person_made_of_ours_is_no_snapshot(
    labels: dict[str, str], tags: list[str] | None, ours: bool
) -> None:
    marks = Marks("mine")
    assert marks.owns_snapshot({"Labels": {**marks.for_snapshot("s", {}), **labels}}, tags) is ours


@pytest.mark.parametrize(
    ("status", "message", "code", "permanent"),
    [
        (404, "No such image: x:1", "image_not_found", True),
        (404, "pull access denied for x, repository does not exist", "image_not_found", True),
        (
            500,
            'Get "https://registry-1.docker.io/v2/": dial tcp: lookup x: no such host',
            "registry_unreachable",
            False,
        ),
        (404, "network thunder-x not found", "network_gone", False),
        (500, "... Bind for 127.0.0.1:80 failed: port is already allocated", "port_taken", False),
        (500, "listen tcp4 127.0.0.1:80: bind: address already in use", "port_taken", False),
        (409, "Container abc is paused, unpause the container before exec", "environment_frozen", False),
        (409, "Container abc is not running", "environment_stopped", False),
        (500, "write /x: no space left on device", "disk_full", False),
        (500, "something new", "docker_500", False),
        (400, "something new", "docker_400", True),
        (0, "something new", "docker_error", False),
    ],
)
def test_refusals_are_told_apart(status: int, message: str, code: str, permanent: bool) -> None:
    error = refusal(status, message)
    assert (error.code, error.permanent, str(error)) == (code, permanent, message)


def test_no_connection_and_no_service_are_unknown() -> None:
    assert isinstance(refusal(900, "x"), ProviderUnavailableError)
    assert isinstance(refusal(503, "No such container"), ProviderUnavailableError)


def test_states_that_docker_may_add_are_unknown() -> None:
    assert liveness_of("running") is Liveness.ALIVE
    assert liveness_of("removing") is Liveness.UNKNOWN
    assert liveness_of("hibernating") is Liveness.UNKNOWN


def test_only_published_tcp_ports_count() -> None:
    ports = {"80/tcp": [{"HostIp": "127.0.0.1", "HostPort": "4000"}], "81/tcp": None, "53/udp": [{"HostPort": "5"}]}
    running, exited = {"Status": "running"}, {"Status": "exited"}
    assert published_ports({"State": running, "NetworkSettings": {"Ports": ports}}) == {80: 4000}
    assert published_ports({"State": exited, "NetworkSettings": {"Ports": ports}}) == {}
    assert published_ports({"State": running, "NetworkSettings": {"Ports": None}}) == {}


@pytest.mark.parametrize(
    ("rules", "left_out", "kept"),
    [
        (["*.log"], ["a.log"], ["sub/a.log", "a.txt"]),
        (["**/*.log"], ["a.log", "sub/a.log", "x/y/a.log"], ["a.txt"]),
        (["node_modules"], ["node_modules", "node_modules/x/y"], ["sub/node_modules"]),
        (["/build/"], ["build/x"], ["x/build"]),
        (["*", "!kept", "kept/not"], ["a", "kept/not", "kept/not/x"], ["kept", "kept/a"]),
        (["# comment", "", "a?c", "[0-9]*"], ["abc", "1x"], ["ac", "x1", "# comment"]),
        ([r"a\*b", "a.b"], ["a*b", "a.b"], ["axb"]),
        (["temp**/x"], ["temp/x", "temp1/y/x"], ["x"]),
        ([], [], ["anything"]),
    ],
)
def test_dockerignore(rules: list[str], left_out: list[str], kept: list[str]) -> None:
    ignore = IgnoreRules(rules)
    assert [path for path in left_out if not ignore.leave_out(path)] == []
    assert [path for path in kept if ignore.leave_out(path)] == []


def test_a_context_is_the_same_archive_whoever_owns_the_files(tmp_path: Path) -> None:
    (tmp_path / "Dockerfile").write_text("FROM x")
    (tmp_path / ".dockerignore").write_text("Dockerfile\nleft")
    (tmp_path / "left").write_text("left")
    (tmp_path / "link").symlink_to("elsewhere")
    os.mkfifo(tmp_path / "pipe")
    archive = io.BytesIO()
    write_context(tmp_path, archive, "Dockerfile")
    archive.seek(0)
    with tarfile.open(fileobj=archive) as tar:
        members = tar.getmembers()
    assert [member.name for member in members] == [".dockerignore", "Dockerfile", "link"]
    assert {(member.uid, member.gid, member.uname) for member in members} == {(0, 0, "")}
    with pytest.raises(FileNotFoundError):
        write_context(tmp_path / "absent", io.BytesIO(), "Dockerfile")


def test_disk_counts_blocks_and_each_file_once(tmp_path: Path) -> None:
    inside = tmp_path / "a" / "b"
    inside.mkdir(parents=True)
    empty = allocated_bytes([tmp_path])
    assert empty is not None
    with (inside / "sparse").open("wb") as file:
        file.truncate(1 << 30)
    (inside / "full").write_bytes(b"x" * (1 << 20))
    os.link(inside / "full", tmp_path / "same")
    (tmp_path / "loop").symlink_to(tmp_path)
    used = allocated_bytes([tmp_path])
    assert used is not None
    assert 1 << 20 <= used - empty < (1 << 20) + (1 << 16)
    assert allocated_bytes([tmp_path, tmp_path / "absent"]) is None
    assert free_bytes(str(tmp_path / "absent")) is None
    assert (free_bytes(str(tmp_path)) or 0) > 0


async def test_an_effect_outlives_its_caller_and_is_waited_for() -> None:
    underway, begin, done = Underway(), asyncio.Event(), []

    async def effect() -> None:
        await begin.wait()
        done.append("effect")

    caller = asyncio.create_task(underway.run(effect, "place", "snapshot"))
    await asyncio.sleep(0)
    caller.cancel()
    await asyncio.gather(caller, return_exceptions=True)
    waiting = asyncio.create_task(underway.settle("snapshot"))
    await asyncio.sleep(0)
    assert not waiting.done()
    begin.set()
    await waiting
    assert done == ["effect"]
    await underway.settle("place")
    await underway.aclose()


async def test_effects_with_the_same_key_follow_one_another_and_errors_reach_only_their_caller() -> None:
    underway, order = Underway(), []

    async def failing() -> None:
        await asyncio.sleep(0)
        order.append("failed")
        raise LookupError

    async def good() -> str:
        order.append("good")
        return "result"

    first = asyncio.create_task(underway.run(failing, "key"))
    await asyncio.sleep(0)
    assert await underway.run(good, "key") == "result"
    assert order == ["failed", "good"]
    with pytest.raises(LookupError):
        await first
