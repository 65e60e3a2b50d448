"""What a sandbox of the process provider cannot see, reach or become."""

from __future__ import annotations

import os
import secrets
import socket
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from process_bed import Bed, make_image, process_bed, text, tree

from thunderagent_core.environments.base import Liveness
from thunderagent_core.environments.process.identity import children
from thunderagent_core.environments.spec import Mount

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

SECRET = secrets.token_hex(16)
ROOT = os.geteuid() == 0


@pytest.fixture
async def bed() -> AsyncIterator[Bed]:
    async with process_bed() as bed:
        yield bed


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_image(tmp_path_factory.mktemp("image") / "root")


async def test_no_process_inside_has_a_privilege_or_can_gain_one(bed: Bed) -> None:
    await bed.create()
    found = await bed.out("cat /proc/[0-9]*/status | grep -E '^(Cap...|NoNewPrivs):' | sort | uniq -c")
    values = {tuple(line.split()[1:]) for line in found.splitlines()}
    nothing = "0" * 16
    assert values == {(f"Cap{kind}:", nothing) for kind in ("Inh", "Prm", "Eff", "Bnd", "Amb")} | {("NoNewPrivs:", "1")}


@pytest.mark.parametrize(
    "attempt",
    [
        "unshare --user true",
        "unshare --mount true",
        "mount -t tmpfs none /tmp",
        "mount -o remount,rw /usr",
        "umount /proc",
        "mknod /tmp/disk b 254 0",
        "chroot / true",
        "echo x >/proc/sys/kernel/core_pattern",
        "echo x >/proc/sys/kernel/hostname",
        "echo b >/proc/sysrq-trigger",
        "hostname stranger",
        "chown 0 /workspace",
        "nice -n -5 true 2>&1 | grep .  && false",
        "ls /proc/1/root/oldroot",
    ],
)
async def test_what_needs_privileges_fails(bed: Bed, attempt: str) -> None:
    await bed.create()
    said = await bed.sh(attempt)
    assert said.status != 0
    assert b"not found" not in said.err


async def test_its_user_is_nobody_of_importance_on_the_host(bed: Bed) -> None:
    await bed.create()
    await bed.out("touch /workspace/file /tmp/file")
    owner = (bed.upper() / "workspace" / "file").stat()
    init = bed.record(bed.place()).init
    assert init is not None
    users = {
        line for pid in [init.pid, *children(init.pid)] for line in status(pid).splitlines() if line.startswith("Uid:")
    }
    if ROOT:
        assert owner.st_uid == owner.st_gid == 1_900_000_000
        assert users == {"Uid:\t1900000000\t1900000000\t1900000000\t1900000000"}
    else:
        assert owner.st_uid == os.geteuid()
    assert await bed.out("id -u; id -un") == "1000\nagent"


def status(pid: int) -> str:
    return Path(f"/proc/{pid}/status").read_text()


async def test_what_a_set_uid_program_would_bring_does_not_come(bed: Bed) -> None:
    await bed.create()
    assert (await bed.out("cp /usr/bin/id /tmp/id; chmod 6755 /tmp/id; /tmp/id -u")) == "1000"
    assert "nosuid" in await bed.out("grep ' / ' /proc/self/mounts | tail -1")


async def test_the_hosts_files_are_not_there(bed: Bed, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text(SECRET)
    await bed.create()
    top = set((await bed.out("ls -A /")).split())
    assert top <= {"bin", "dev", "etc", "home", "lib", "lib32", "lib64", "libx32", "proc", "run", "sbin", "tmp"} | {
        "usr",
        "var",
        "workspace",
    }
    assert await bed.out("ls -A /run /tmp /home /var /var/tmp | grep -v '^/.*:$' | sort -u") == "agent\ntmp"
    for path in (tmp_path / "secret", bed.root, "/root", "/sys", "/var/run/docker.sock", "/var/lib", "/etc/shadow"):
        assert (await bed.sh(f"ls {path}")).status != 0
    assert (await bed.sh(f"grep -rs {SECRET} / --exclude-dir=usr --exclude-dir=proc --exclude-dir=dev")).status != 0
    devices = set((await bed.out("ls /dev")).split())
    assert devices == {
        *("console", "core", "fd", "full", "null", "ptmx", "pts", "random", "shm", "stderr", "stdin", "stdout"),
        *("tty", "urandom", "zero"),
    } - ({"console"} if "console" not in devices else set())


async def test_one_does_not_see_another(bed: Bed) -> None:
    await bed.create("e1")
    await bed.create("e2")
    await bed.out(f"echo {SECRET} >/workspace/file; echo {SECRET} >/tmp/file; sleep 1000 >/dev/null 2>&1 &", "e1")
    assert await bed.out("ls -A /workspace /tmp | grep file; true", "e2") == ""
    assert (await bed.sh("ps -eo args | grep '[s]leep 1000'", "e2")).status != 0
    assert (await bed.sh("ps -eo args | grep '[s]leep 1000'", "e1")).status == 0


async def test_it_has_its_own_processes_ipc_and_names(bed: Bed) -> None:
    await bed.create()
    numbers = [int(word) for word in (await bed.out("cd /proc; echo [0-9]*")).split()]
    assert len(numbers) < 8
    kinds = ("user", "mnt", "pid", "net", "ipc", "uts")
    inside = await bed.out("readlink " + " ".join(f"/proc/self/ns/{kind}" for kind in kinds))
    outside = [str(namespace.readlink()) for namespace in map(Path("/proc/self/ns").joinpath, kinds)]
    assert set(inside.split()) & set(outside) == set()
    assert await bed.out("cat /proc/sys/kernel/hostname") == "shell"
    assert (await bed.sh(f"kill -0 {os.getpid()}")).status != 0


async def test_nothing_of_the_server_is_in_the_environment(bed: Bed, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", SECRET)
    bed.provider = bed.another()
    await bed.create(env={"GIVEN": "by the specification"})
    assert await bed.out("env | cut -d= -f1 | sort", env={"EXTRA": "1"}) == (
        "EXTRA\nGIVEN\nHOME\nLANG\nLOGNAME\nPATH\nPWD\nUSER"
    )
    everything = await bed.out("cat /proc/[0-9]*/environ /proc/[0-9]*/cmdline | tr '\\0' '\\n'")
    assert SECRET not in everything
    assert "GIVEN=by the specification" in everything


async def test_no_descriptor_leaks_in(bed: Bed) -> None:
    await bed.create("e1")
    await bed.create("e2", command=("/bin/sh", "-c", "sleep 1000 & wait"))
    assert await bed.out("ls /proc/self/fd") == "0\n1\n2\n3"
    for name in ("e1", "e2"):
        links = await bed.out("readlink /proc/[12]/fd/*; true", name)
        kinds = {line.split(":")[0] for line in links.splitlines()}
        own = {"pipe", "/dev/null", "anon_inode", "user"}
        assert {kind for kind in kinds if not kind.endswith("/output.log")} <= own


async def test_it_has_no_network_unless_it_asks(bed: Bed) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        reach = f"exec 3<>/dev/tcp/127.0.0.1/{port} && echo reached"
        await bed.create("e1")
        await bed.create("e2", network=True)
        for name, reached in (("e1", False), ("e2", True)):
            process = await bed.provider.spawn(bed.place(name), ("bash", "-c", reach))
            await process.close_input()
            while await process.read() is not None:
                pass
            assert (await process.wait() == 0) is reached
            await process.aclose()
    names = await bed.out("cat /proc/net/dev | grep : | cut -d: -f1")
    assert [name.strip() for name in names.splitlines()] == ["lo"]


async def test_a_networked_one_gets_its_ports_and_the_hosts_resolver(bed: Bed) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        free = server.getsockname()[1]
    sighting = await bed.create(ports=(8080, 9090), host_ports={8080: free, 9090: 0})
    assert sighting.host == "127.0.0.1"
    assert sighting.ports[8080] == free
    assert sighting.ports[9090] not in {0, 9090, free}
    said = await bed.out("echo $THUNDER_PORT_8080 $THUNDER_PORT_9090")
    assert said == f"{free} {sighting.ports[9090]}"
    assert (await bed.another().look(bed.place())).ports == sighting.ports
    assert await bed.out("cat /etc/resolv.conf") == text("/etc/resolv.conf").strip()


async def test_what_it_writes_stays_its_own(bed: Bed) -> None:
    await bed.create()
    before = host_state()
    assert (await bed.sh("echo x >/usr/file")).status != 0
    assert (await bed.sh("rm -rf /usr/bin")).status != 0
    assert (await bed.sh("echo x >>/etc/passwd; rm -f /etc/hosts; mkdir /anywhere; echo x >/anywhere/file")).status == 0
    assert host_state() == before
    assert (bed.upper() / "anywhere" / "file").read_text() == "x\n"


def host_state() -> list[object]:
    return [text("/etc/passwd"), text("/etc/hosts"), tree(Path("/usr/local")), sorted(Path("/").iterdir())]


async def test_an_image_is_never_changed(bed: Bed, image: Path) -> None:
    await bed.create(image=str(image))
    before = tree(image)
    assert (await bed.sh("rm -rf /etc/marker /bin/cat; echo x >/bin/new; mkdir /new")).status == 0
    assert (await bed.sh("ls /bin/cat")).status != 0
    assert tree(image) == before
    assert (await bed.sh("ls /usr/bin/python3 /root /home/agent/..")).status != 0


async def test_an_image_that_cannot_lie_under_an_overlay_is_read_only(bed: Bed, image: Path) -> None:
    await bed.provider.rooms()
    bed.provider._shop._overlays = False
    await bed.create(image=str(image))
    assert (await bed.sh("rm /etc/marker")).status != 0
    assert await bed.out("cat /etc/marker; echo x >/workspace/file; echo x >/tmp/file; id -un; pwd") == (
        "of the image\nagent\n/workspace"
    )
    await bed.kill(bed.place())
    await bed.provider.start(bed.place())
    assert await bed.out("cat /workspace/file") == "x"


async def test_mounts_are_read_only(bed: Bed, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "file").write_text("given\n")
    (tmp_path / "single").write_text("one\n")
    mounts = (
        Mount(source=str(tmp_path / "data"), target="/opt/data"),
        Mount(source=str(tmp_path / "single"), target="/opt/file"),
    )
    await bed.create(mounts=mounts)
    assert await bed.out("cat /opt/data/file /opt/file") == "given\none"
    assert (await bed.sh("echo x >/opt/data/file")).status != 0
    assert (await bed.sh("touch /opt/data/new")).status != 0


@pytest.mark.parametrize("trap", ["/workspace", "/tmp", "/home/agent", "/run", "/var"])
async def test_a_link_left_behind_does_not_lead_the_next_start_astray(bed: Bed, tmp_path: Path, trap: str) -> None:
    """Bubblewrap makes directories before the sandbox has its own root: ``/oldroot`` would be the host."""
    make_writable(tmp_path / "bait")
    await bed.create()
    await bed.out(f"cd /; rm -rf {trap}; ln -s /oldroot{tmp_path}/bait/made {trap}", workdir="/")
    await bed.kill(bed.place())
    sighting = await bed.provider.start(bed.place())
    assert sighting.liveness is Liveness.ALIVE
    assert list((tmp_path / "bait").iterdir()) == []
    assert await bed.out(f"cd {trap} && pwd -P") == f"/oldroot{tmp_path}/bait/made"
    assert (bed.upper() / f"oldroot{tmp_path}" / "bait" / "made").is_dir()


async def test_shared_memory_counts_as_memory(bed: Bed) -> None:
    await bed.create(memory_bytes=32 << 20)
    assert (await bed.sh("head -c 64000000 /dev/zero >/dev/shm/file")).status != 0


def make_writable(directory: Path) -> None:
    directory.mkdir()
    for path in (directory, directory.parent):
        path.chmod(0o777)
