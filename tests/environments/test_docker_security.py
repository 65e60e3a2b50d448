"""What a container may not do, seen from inside."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from thunderagent_core.environments.spec import Mount

if TYPE_CHECKING:
    from pathlib import Path

    from docker_testbed import DockerBed

pytestmark = pytest.mark.real_docker


async def test_no_capabilities_and_no_new_privileges(docker_bed: DockerBed) -> None:
    bed = docker_bed
    await bed.provider.create(bed.plan())
    _, shown = await bed.shell("grep -E '^(Cap|NoNewPrivs|Seccomp:)' /proc/self/status")
    status = dict(line.split(":\t", 1) for line in shown.splitlines())
    assert {
        name: int(status[name], 16) for name in ("CapEff", "CapPrm", "CapBnd", "CapInh", "CapAmb")
    } == dict.fromkeys(("CapEff", "CapPrm", "CapBnd", "CapInh", "CapAmb"), 0)
    assert (status["NoNewPrivs"], status["Seccomp"]) == ("1", "2")


async def test_the_main_program_is_not_process_one_and_leaves_at_once(docker_bed: DockerBed) -> None:
    bed, place = docker_bed, docker_bed.place()
    await bed.provider.create(bed.plan())
    _, shown = await bed.shell("cat /proc/1/comm; ps -o comm")
    assert "init" in shown.splitlines()[0]
    assert "sleep" in shown
    bed.engine.request("POST", f"/containers/{place.handle}/stop?t=60")  # an idle one that ignored it would be killed
    state = bed.engine.inspect(place.handle)
    assert state is not None
    assert state["State"]["ExitCode"] == 128 + 15


async def test_without_network_there_is_only_the_loopback(docker_bed: DockerBed) -> None:
    bed = docker_bed
    await bed.provider.create(bed.plan("e1"))
    await bed.provider.create(bed.plan("e2", network=True))
    assert await bed.shell("ls /sys/class/net", "e1") == (0, "lo\n")
    assert (await bed.shell("ls /sys/class/net", "e2"))[1].split() == ["eth0", "lo"]


async def test_containers_do_not_reach_one_another(docker_bed: DockerBed) -> None:
    bed = docker_bed
    program = ("/bin/sh", "-c", "mkdir /www; echo served > /www/index.html; exec httpd -f -p 80 -h /www")
    await bed.provider.create(bed.plan("e1", network=True, command=program))
    await bed.provider.create(bed.plan("e2", network=True))
    address = (await bed.shell("ip -4 -o addr show eth0", "e1"))[1].split()[3].split("/")[0]
    until_served = f"until wget -q -O - http://{address}/; do usleep 50000; done"
    assert await bed.shell(until_served, "e1") == (0, "served\n")
    status, _ = await bed.shell(f"timeout 2 wget -q -O - http://{address}/", "e2")
    assert status != 0


async def test_limits_are_in_effect(docker_bed: DockerBed) -> None:
    bed, place = docker_bed, docker_bed.place()
    await bed.provider.create(bed.plan(memory_bytes=48 << 20, cpus=0.25, pids=16))
    found = bed.engine.inspect(place.handle)
    assert found is not None
    assert found["HostConfig"]["MemorySwap"] == 48 << 20
    v1 = "cat memory/memory.limit_in_bytes cpu/cpu.cfs_quota_us pids/pids.max"
    v2 = "cat memory.max cpu.max pids.max"
    _, shown = await bed.shell(f"cd /sys/fs/cgroup; {v1} 2>/dev/null || {v2}")
    numbers = [number for number in shown.split() if number != "100000"]
    assert numbers == [str(48 << 20), "25000", "16"]

    status, _ = await bed.shell("dd if=/dev/zero of=/dev/null bs=100M count=1")
    assert status != 0
    _, shown = await bed.shell("for n in $(seq 30); do sleep 5 & done; wait")
    assert "fork" in shown
    assert (await bed.provider.look(place)).liveness == "alive"


@pytest.fixture
def given(tmp_path: Path) -> Path:
    """A directory of the host that anybody may write to."""
    tmp_path.chmod(0o777)
    tmp_path.joinpath("given").write_text("from outside\n")
    return tmp_path


async def test_mounts_are_read_only(docker_bed: DockerBed, given: Path) -> None:
    bed = docker_bed
    await bed.provider.create(bed.plan(mounts=(Mount(source=str(given), target="/given"),)))
    status, shown = await bed.shell("cat /given/given; touch /given/new")
    assert status != 0
    assert "from outside\n" in shown
    assert "Read-only" in shown
    assert await bed.shell("ls /given") == (0, "given\n")


async def test_a_quota_above_the_host_is_no_error(docker_bed: DockerBed) -> None:
    bed = docker_bed
    assert (await bed.provider.create(bed.plan(cpus=512.0))).liveness == "alive"


async def test_what_the_main_program_prints_is_kept_within_bounds(docker_bed: DockerBed) -> None:
    bed, place = docker_bed, docker_bed.place()
    await bed.provider.create(bed.plan(command=("/bin/sh", "-c", "yes | head -c 20000000; exec sleep 600")))
    found = bed.engine.inspect(place.handle)
    assert found is not None
    assert found["HostConfig"]["LogConfig"]["Config"] == {"max-size": "1m", "max-file": "2"}
