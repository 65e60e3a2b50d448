"""Parts of the process provider that need no sandbox."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import pytest

from thunderagent_core.environments.base import LABEL_INSTALLATION, ProviderError
from thunderagent_core.environments.process import identity
from thunderagent_core.environments.process.arguments import (
    Sources,
    environment_variables,
    host_ports,
    namespaces,
    options,
)
from thunderagent_core.environments.process.cgroups import Cgroups, detect_cgroups
from thunderagent_core.environments.process.files import write_whole
from thunderagent_core.environments.process.records import Layer, Record
from thunderagent_core.environments.process.rootfs import View, look_at_image, resolve_inside, write_own_files
from thunderagent_core.environments.process.store import Store
from thunderagent_core.environments.process.waiting import finish
from thunderagent_core.environments.spec import EnvironmentSpec, Mount

if TYPE_CHECKING:
    from collections.abc import Iterator


def record(**spec) -> Record:
    labels = {LABEL_INSTALLATION: "i"}
    ports = spec.pop("host_ports", {})
    layer = spec.pop("layer", Layer.BINDS)
    return Record(
        handle="thunder-i-e1", labels=labels, spec=EnvironmentSpec(name="x", **spec), ports=ports, layer=layer
    )


def words(*, own_user: bool = True, image: str | None = None, view: View | None = None, **spec) -> list[str]:
    given = record(**spec)
    sources = Sources(
        layer="/stage/layer",
        image=image,
        mounts=[f"/stage/mount-{index}" for index in range(len(given.spec.mounts))],
        view=view or View({}, {}),
    )
    return options(given, sources, own_user=own_user, resolve=lambda path: path)


def follows(found: list[str], *wanted: str) -> bool:
    """Whether words follow upon one another somewhere."""
    length = len(wanted)
    return any(tuple(found[at : at + length]) == wanted for at in range(len(found)))


def test_a_sandbox_is_cut_off_in_every_way() -> None:
    for own_user in (True, False):
        found = namespaces(own_user=own_user, networked=False)
        for word in ("--unshare-pid", "--unshare-ipc", "--unshare-uts", "--unshare-net", "--new-session"):
            assert word in found
        assert follows(found, "--cap-drop", "ALL")
        assert follows(found, "--uid", "1000", "--gid", "1000")
        assert "--die-with-parent" not in found
    assert "--disable-userns" in namespaces(own_user=False, networked=False)
    assert follows(namespaces(own_user=True, networked=False), "--userns", "3")
    assert "--unshare-net" not in namespaces(own_user=True, networked=True)


def test_without_an_image_the_host_is_seen_read_only() -> None:
    view = View({"/bin": "usr/bin"}, {"/usr": "/usr", "/etc/ssl/certs": "/etc/ssl/certs"})
    found = words(view=view)
    assert follows(found, "--bind", "/stage/layer/upper", "/", "--symlink", "usr/bin", "/bin")
    assert follows(found, "--ro-bind", "/usr", "/usr", "--ro-bind", "/etc/ssl/certs", "/etc/ssl/certs")
    assert "--overlay" not in found


def test_an_image_lies_under_an_overlay_or_else_is_seen_read_only() -> None:
    found = words(image="/stage/image", layer=Layer.OVERLAY)
    lie = ("--overlay-src", "/stage/image", "--overlay", "/stage/layer/upper", "/stage/layer/work", "/")
    assert follows(found, *lie)
    found = words(image="/stage/image", view=View({}, {"/opt": "/opt"}))
    assert follows(found, "--ro-bind", "/stage/image/opt", "/opt")


def test_mounts_and_variables() -> None:
    mounts = (Mount(source="/a", target="/x"), Mount(source="/b", target="/y"))
    found = words(mounts=mounts, env={"A": "--bind / /", "HOME": "/elsewhere"})
    assert follows(found, "--ro-bind", "/stage/mount-0", "/x")
    assert follows(found, "--ro-bind", "/stage/mount-1", "/y")
    assert follows(found, "--setenv", "A", "--bind / /")
    assert follows(found, "--setenv", "HOME", "/elsewhere")
    assert found.index("--clearenv") < found.index("--setenv")


def test_ports_of_the_host_are_told() -> None:
    given = record(ports=(80, 90, 100), host_ports={80: 34567, 90: 0})
    assert host_ports(given) == {80: 34567, 90: 90, 100: 100}
    assert environment_variables(given)["THUNDER_PORT_80"] == "34567"


@pytest.fixture
def layers(tmp_path: Path) -> list[Path]:
    upper, image = tmp_path / "upper", tmp_path / "image"
    (upper / "plain").mkdir(parents=True)
    (image / "below" / "deep").mkdir(parents=True)
    (upper / "out").symlink_to("/oldroot/etc")
    (upper / "up").symlink_to("../../../../oldroot")
    (upper / "around").symlink_to("around/again")
    (upper / "file").write_text("x")
    (upper / "hidden").mkdir()
    (image / "hidden").symlink_to("/oldroot")
    (image / "relative").symlink_to("below/deep")
    (image / "chain").symlink_to("/relative/../..")
    return [upper, image]


@pytest.mark.parametrize(
    ("path", "reached"),
    [
        ("/plain/new", "/plain/new"),
        ("/out/new", "/oldroot/etc/new"),  # of the sandbox's own root, where there is no such thing
        ("/up/new", "/oldroot/new"),
        ("/../../plain", "/plain"),
        ("/plain/../../..", "/"),
        ("/relative/new", "/below/deep/new"),
        ("/chain/new", "/new"),
        ("/hidden/new", "/hidden/new"),
        ("/file/below", "/file/below"),
        ("//plain//./new/", "/plain/new"),
    ],
)
def test_links_lead_where_they_lead_inside(layers: list[Path], path: str, reached: str) -> None:
    assert resolve_inside(layers, path) == reached


def test_links_that_go_round_are_refused(layers: list[Path]) -> None:
    with pytest.raises(ProviderError) as caught:
        resolve_inside(layers, "/around")
    assert caught.value.code == "files_unusable"


def test_an_image_keeps_its_users_and_gets_ours(tmp_path: Path) -> None:
    image, upper = tmp_path / "image", tmp_path / "upper"
    (image / "etc").mkdir(parents=True)
    (image / "tmp").mkdir()
    (image / "bin").symlink_to("usr/bin")
    (image / "etc" / "passwd").write_text("root:x:0:0::/root:/bin/sh")
    (image / "etc" / "group").write_text("root:x:0:\nusers:x:1000:\n")
    (image / "etc" / "hosts").write_text("")
    upper.mkdir()
    write_own_files(upper, image, None)
    assert (upper / "etc" / "passwd").read_text() == (
        "root:x:0:0::/root:/bin/sh\nagent:x:1000:1000::/home/agent:/bin/sh\n"
    )
    assert (upper / "etc" / "group").read_text() == "root:x:0:\nusers:x:1000:\n"
    assert look_at_image(image) == View({"/bin": "usr/bin"}, {"/etc/hosts": "/etc/hosts"})


def test_secrets_of_the_host_are_not_copied(tmp_path: Path) -> None:
    write_own_files(tmp_path, None, None)
    names = {path.name for path in (tmp_path / "etc").iterdir()}
    assert names & {"shadow", "gshadow", "gitconfig", "machine-id", "hostname", "resolv.conf", "environment"} == set()
    assert (tmp_path / "etc" / "passwd").read_text() == "agent:x:1000:1000::/home/agent:/bin/sh\n"


HYBRID = """\
30 20 0:26 / {root}/unified rw shared:9 - cgroup2 cgroup2 rw
31 20 0:27 / {root}/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct
32 20 0:28 / {root}/memory rw - cgroup cgroup rw,memory
33 20 0:29 / {root}/with\\040space rw - cgroup cgroup rw,freezer
34 20 0:30 / {root}/systemd rw - cgroup cgroup rw,name=systemd
"""
SECOND = "30 20 0:26 / {root}/unified rw - cgroup2 cgroup2 rw,nsdelegate\n"


def test_the_first_version_is_used_where_controllers_are_mounted(tmp_path: Path) -> None:
    for name in ("unified", "cpu,cpuacct", "memory", "with space"):
        (tmp_path / name).mkdir()
    groups = detect_cgroups("i", HYBRID.format(root=tmp_path))
    assert groups.limits == {"cpu", "memory"}
    assert groups.can_freeze
    assert groups.directories == sorted(
        tmp_path / name / "thunder-i" for name in ("cpu,cpuacct", "memory", "with space")
    )
    assert [path.name for path in tmp_path.rglob("*thunder*")] == []


@pytest.fixture
def unified(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory in which new ones look like control groups of version 2."""
    root = tmp_path / "unified"
    mkdir, rmdir = Path.mkdir, Path.rmdir
    names = ("cgroup.procs", "cgroup.freeze", "cgroup.subtree_control", "memory.max", "pids.max", "cpu.max")

    def make(path: Path, *arguments, **named) -> None:
        existed = path.exists()
        mkdir(path, *arguments, **named)
        if not existed and root in (path, *path.parents):
            for name in names:
                (path / name).write_text("memory pids\n" if name == "cgroup.subtree_control" else "")

    def remove(path: Path) -> None:
        if not any(child.is_dir() for child in path.iterdir()):
            for child in path.iterdir():
                child.unlink()
        rmdir(path)

    write = Path.write_text
    monkeypatch.setattr(Path, "mkdir", make)
    monkeypatch.setattr(Path, "rmdir", remove)
    monkeypatch.setattr(
        Path, "write_text", lambda path, data, **named: 0 if data.startswith("+") else write(path, data, **named)
    )
    root.mkdir()
    return root


def test_the_second_version_gives_what_is_delegated(unified: Path) -> None:
    groups = detect_cgroups("i", SECOND.format(root=unified.parent))
    assert groups.limits == {"memory", "pids"}
    assert groups.can_freeze
    groups.make("thunder-i-e1", EnvironmentSpec(name="x", memory_bytes=1 << 26, pids=20))
    directory = unified / "thunder-i" / "thunder-i-e1"
    assert (directory / "memory.max").read_text() == "67108864"
    assert (directory / "pids.max").read_text() == "21"
    assert (directory / "cpu.max").read_text() == ""
    assert groups.entrances("thunder-i-e1") == [directory / "cgroup.procs"]
    assert groups.handles() == {"thunder-i-e1"}
    groups.set_frozen("thunder-i-e1", frozen=True)
    assert (directory / "cgroup.freeze").read_text() == "1"
    assert not groups.is_frozen("thunder-i-e1")
    (directory / "cgroup.events").write_text("populated 1\nfrozen 1\n")
    assert groups.is_frozen("thunder-i-e1")
    assert groups.remove("thunder-i-e1")
    assert not (unified / "thunder-i").exists()


@pytest.mark.parametrize("mounts", ["", "30 20 0:26 / /no/such/place rw - cgroup2 cgroup2 rw\n"])
def test_a_host_that_lets_us_make_none(mounts: str) -> None:
    groups = detect_cgroups("i", mounts)
    assert groups.limits == frozenset()
    assert not groups.can_freeze
    assert groups.remove("thunder-i-e1")
    assert groups.handles() == set()
    assert groups.processes("thunder-i-e1") == []


def test_groups_that_others_are_in_stay(tmp_path: Path) -> None:
    groups = Cgroups({"memory": tmp_path / "thunder-i"}, unified=False)
    groups.make("thunder-i-e1", EnvironmentSpec(name="x"))
    (tmp_path / "thunder-i" / "thunder-i-e1" / "busy").mkdir()
    assert not groups.remove("thunder-i-e1")


@pytest.fixture
def store(tmp_path: Path) -> Store:
    store = Store(tmp_path, "i", None)
    store.open()
    return store


def test_a_record_is_there_before_its_directory_has_its_name(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "rename", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        store.begin(record())
    monkeypatch.undo()
    assert store.read("thunder-i-e1") is None
    assert store.handles() == {"thunder-i-e1"}
    (draft,) = store.discard("thunder-i-e1")
    assert (draft / "meta.json").exists()


def test_a_record_comes_back_as_it_was_written(store: Store) -> None:
    given = record(ports=(80,), host_ports={80: 1234}, mounts=(Mount(source="/a", target="/b"),), env={"A": "b"})
    store.begin(given)
    assert store.read(given.handle) == given
    changed = msgspec.structs.replace(given, filled=True, init=identity.identify(os.getpid()))
    store.write(changed)
    assert store.read(given.handle) == changed
    assert [path.name for path in store.directory(given.handle).iterdir()] == ["meta.json"]


def test_a_root_that_is_not_there_proves_nothing(store: Store, tmp_path: Path) -> None:
    (tmp_path / "environments").rename(tmp_path / "unmounted")
    with pytest.raises(ProviderError) as caught:
        store.read("thunder-i-e1")
    assert caught.value.code == "provider_unavailable"


def test_another_label_is_respected(store: Store) -> None:
    foreign = msgspec.structs.replace(record(), labels={LABEL_INSTALLATION: "j"})
    store.begin(foreign)
    with pytest.raises(ProviderError) as caught:
        store.read("thunder-i-e1")
    assert caught.value.code == "not_ours"


def test_a_file_is_replaced_all_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file"
    write_whole(path, b"old")
    monkeypatch.setattr(os, "fsync", lambda _: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        write_whole(path, b"new")
    assert path.read_bytes() == b"old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]


@pytest.fixture
async def sleeper() -> Iterator[asyncio.subprocess.Process]:
    process = await asyncio.create_subprocess_exec("sleep", "1000")
    yield process
    if process.returncode is None:
        process.kill()
        await process.wait()


async def test_a_process_is_known_by_more_than_its_number(sleeper: asyncio.subprocess.Process) -> None:
    known = identity.identify(sleeper.pid)
    assert known is not None
    assert identity.is_alive(known)
    for other in ({"started": known.started + 1}, {"boot": "other"}):
        stranger = msgspec.structs.replace(known, **other)
        assert not identity.is_alive(stranger)
        assert identity.open_process(stranger) is None
        identity.send_signal(stranger, signal.SIGKILL)
    assert identity.is_alive(known)
    ended = asyncio.create_task(identity.wait_for_end(known))
    await asyncio.sleep(0)
    identity.send_signal(known, signal.SIGKILL)
    async with asyncio.timeout(60):
        await ended
        await sleeper.wait()
    assert not identity.is_alive(known)
    assert identity.identify(known.pid) is None
    await identity.wait_for_end(known)


async def test_a_stopped_process_is_seen_to_be(sleeper: asyncio.subprocess.Process) -> None:
    known = identity.identify(sleeper.pid)
    assert known is not None
    assert not identity.is_stopped(known)
    identity.send_signal(known, signal.SIGSTOP)
    async with asyncio.timeout(60):
        while not identity.is_stopped(known):
            await asyncio.sleep(0.001)
    assert not identity.is_doomed(known)
    identity.send_signal(known, signal.SIGCONT)


async def test_what_must_be_finished_is_finished_before_a_cancellation_goes_on() -> None:
    steps: list[str] = []

    async def work() -> None:
        steps.append("begun")
        await asyncio.sleep(0.05)
        steps.append("finished")

    task = asyncio.create_task(finish(work()))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert steps == ["begun", "finished"]
