"""Snapshots of the process provider, beyond the contract of all providers."""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING

import pytest

pytest.register_assert_rewrite("contract", "process_bed")

from process_bed import Bed, make_image, process_bed, text  # noqa: E402 - after its assertions can explain themselves

from thunderagent_core.environments.base import Kind, Liveness, ProviderError  # noqa: E402
from thunderagent_core.environments.process.files import TreeTools  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

EVERYTHING = r"""
umask 022; mkdir -p d/empty; echo one >d/one; ln d/one d/hard; ln -s ../d/one d/link; ln -s /nowhere d/dangling
chmod 4751 d/one; mkdir d/closed; echo x >d/closed/file; chmod 000 d/closed/file d/closed; mkfifo d/pipe
touch -d '2001-02-03 04:05:06' d/old; printf '%s' x >"d/a name with  spaces
and a line feed"; mkdir -p /home/agent/deep/er; echo y >/home/agent/deep/er/file; echo z >/tmp/file
dd if=/dev/zero of=d/holes bs=1 count=1 seek=50000000 2>/dev/null
"""
LOOK = r"""
cd /workspace; find . -printf '%p %y %m %n %l %s\n' | sort; stat -c %Y d/old; cat d/hard /home/agent/deep/er/file
cat /tmp/file; stat -c '%i' d/one d/hard | sort -u | wc -l; chmod 700 d/closed; chmod 600 d/closed/file
cat d/closed/file; chmod 000 d/closed/file d/closed
"""


@pytest.fixture
async def bed() -> AsyncIterator[Bed]:
    async with process_bed() as bed:
        yield bed


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_image(tmp_path_factory.mktemp("image") / "root")


async def take(bed: Bed, name: str = "s1") -> None:
    await bed.provider.snapshot(bed.place(), name, bed.labels())


def archive(bed: Bed, name: str = "s1") -> Path:
    (found,) = (bed.root / "snapshots" / f"snapshot-{name}").glob("*.tar")
    return found


async def test_every_kind_of_file_comes_back(bed: Bed) -> None:
    await bed.create()
    await bed.out(EVERYTHING)
    before = await bed.out(LOOK)
    disk = await bed.provider.disk_bytes(bed.place())
    assert disk is not None
    assert disk < 10_000_000
    await take(bed)
    assert archive(bed).stat().st_size < 10_000_000
    await bed.provider.destroy(bed.place())
    await bed.create(snapshot="s1")
    assert await bed.out(LOOK) == before
    again = await bed.provider.disk_bytes(bed.place())
    assert again is not None
    assert again < 10_000_000


async def test_over_an_image_deletions_and_replaced_directories_come_back(bed: Bed, image: Path) -> None:
    if not (image / "data").exists():
        for name in ("kept", "gone", "replaced"):
            (image / "data" / name).mkdir(parents=True)
            (image / "data" / name / "file").write_text(name)
    await bed.create(image=str(image))
    await bed.out("cd /data; rm -r gone; rm -r replaced; mkdir replaced; echo new >replaced/other; echo + >>kept/file")
    await bed.out("rm /etc/marker; mv /data/kept /data/moved; chmod 700 /bin")
    look = "cd /data; for f in */*; do echo $f; cat $f; done; ls /etc; stat -c %a /bin"
    before = await bed.out(look)
    await take(bed)
    await bed.provider.destroy(bed.place())
    await bed.create(image=str(image), snapshot="s1")
    assert await bed.out(look) == before
    assert "gone" not in before
    assert "replaced/file" not in before
    assert text(image / "data" / "gone" / "file") == "gone"


async def test_it_cannot_be_put_over_another_image(bed: Bed, image: Path) -> None:
    await bed.create(image=str(image))
    await take(bed)
    await bed.provider.destroy(bed.place())
    with pytest.raises(ProviderError) as caught:
        await bed.create(snapshot="s1")
    assert caught.value.code == "snapshot_impossible"
    await bed.provider.destroy(bed.place())


@pytest.mark.parametrize("damage", ["shorter", "other", "gone", "manifest", "manifest gone"])
async def test_a_damaged_one_is_not_whole(bed: Bed, damage: str) -> None:
    await bed.create()
    await take(bed)
    assert await bed.provider.snapshot_is_whole("", "s1")
    path = archive(bed)
    content = path.read_bytes()
    if damage == "shorter":
        path.write_bytes(content[:-1])
    elif damage == "other":
        path.write_bytes(content[:1000] + b"x" + content[1001:])
    elif damage == "gone":
        path.unlink()
    elif damage == "manifest":
        path.with_name("manifest.json").write_bytes(b"{")
    else:
        path.with_name("manifest.json").unlink()
    assert not await bed.provider.snapshot_is_whole("", "s1")
    if damage == "manifest":
        path.with_name("manifest.json").unlink()  # it might be another's, so it is left alone
    await bed.provider.drop_snapshot("", "s1")
    assert [one for one in await bed.provider.survey("") if one.kind is Kind.SNAPSHOT] == []


async def test_files_stand_still_while_it_is_taken(bed: Bed, monkeypatch: pytest.MonkeyPatch) -> None:
    await bed.create()
    seen: list[Liveness] = []
    pack = TreeTools.pack

    async def watched(*arguments) -> None:
        seen.append((await bed.provider.look(bed.place())).liveness)
        await pack(*arguments)

    monkeypatch.setattr(TreeTools, "pack", watched)
    await take(bed)
    assert seen == [Liveness.FROZEN]
    assert (await bed.provider.look(bed.place())).liveness is Liveness.ALIVE


async def test_when_it_fails_the_environment_goes_on(bed: Bed, monkeypatch: pytest.MonkeyPatch) -> None:
    await bed.create()

    async def broken(*_) -> None:
        raise ProviderError("the disk is full", code="files_failed")

    monkeypatch.setattr(TreeTools, "pack", broken)
    with pytest.raises(ProviderError):
        await take(bed)
    assert (await bed.provider.look(bed.place())).liveness is Liveness.ALIVE
    assert not await bed.provider.snapshot_is_whole("", "s1")
    monkeypatch.undo()
    await take(bed)
    assert await bed.provider.snapshot_is_whole("", "s1")


async def test_a_failed_attempt_leaves_the_last_one_whole(bed: Bed, monkeypatch: pytest.MonkeyPatch) -> None:
    await bed.create()
    await bed.out("echo old >file")
    await take(bed)
    await bed.out("echo new >file")

    async def broken(_, __, path: Path) -> None:
        path.write_bytes(b"half")
        raise ProviderError("the disk is full", code="files_failed")

    monkeypatch.setattr(TreeTools, "pack", broken)
    with pytest.raises(ProviderError):
        await take(bed)
    monkeypatch.undo()
    assert await bed.provider.snapshot_is_whole("", "s1")
    await bed.provider.destroy(bed.place())
    await bed.create(snapshot="s1")
    assert await bed.out("cat file") == "old"
    await take(bed)
    assert len(list((bed.root / "snapshots" / "snapshot-s1").iterdir())) == 2


async def test_a_stopped_one_can_be_stored(bed: Bed) -> None:
    await bed.create()
    await bed.out("echo kept >file")
    await bed.kill(bed.place())
    await take(bed)
    assert (await bed.provider.look(bed.place())).liveness is Liveness.STOPPED
    await bed.provider.destroy(bed.place())
    await bed.create(snapshot="s1")
    assert await bed.out("cat file") == "kept"


DEEP = "i=0; while [ $i -lt {} ]; do mkdir -p a_rather_long_name && cd a_rather_long_name; i=$((i+1)); done"


async def test_deep_and_many_files(bed: Bed) -> None:
    await bed.create()
    await bed.out(DEEP.format(200))
    await bed.out("seq 1 2000 | while read i; do echo $i >f$i; done")
    await asyncio.gather(take(bed), bed.provider.disk_bytes(bed.place()))
    await bed.provider.destroy(bed.place())
    await bed.create(snapshot="s1")
    assert await bed.out("ls | wc -l; cat f2000; find . | wc -l") == "2001\n2000\n2201"


async def test_what_could_not_be_unpacked_is_not_packed(bed: Bed) -> None:
    await bed.create()
    await bed.out(DEEP.format(300))
    with pytest.raises(ProviderError) as caught:
        await take(bed)
    assert caught.value.code == "snapshot_impossible"
    assert not await bed.provider.snapshot_is_whole("", "s1")
    assert await bed.provider.disk_bytes(bed.place()) is not None


@pytest.mark.parametrize("name", ["a/b", "..", "a@b", "über*", "x" * 60])
async def test_names_are_only_names(bed: Bed, name: str) -> None:
    await bed.create()
    await take(bed, name)
    assert await bed.provider.snapshot_is_whole("", name)
    assert name in {one.name for one in await bed.provider.survey("")}
    assert sorted(os.listdir(bed.root)) == ["environments", "snapshots", "trash"]  # noqa: PTH208
    await bed.provider.drop_snapshot("", name)
    assert not await bed.provider.snapshot_is_whole("", name)
