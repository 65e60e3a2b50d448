"""What tests of the process provider share: a place for its files, images, and a look behind its back."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import subprocess
import tempfile
import uuid
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
from contract import DEADLINE_S, Said, read_all

from thunderagent_core.environments.base import LABEL_ENVIRONMENT, LABEL_INSTALLATION, Kind, Place, Plan
from thunderagent_core.environments.process.identity import children, identify, send_signal, wait_for_end
from thunderagent_core.environments.process.launching import MARKER
from thunderagent_core.environments.process.provider import ProcessProvider
from thunderagent_core.environments.process.records import Record
from thunderagent_core.environments.spec import EnvironmentSpec

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from thunderagent_core.environments.base import Sighting

PROGRAMS = (
    "base64 basename cat chmod cp cut dd dirname echo env expr false grep head id kill ln ls mkdir mkfifo mktemp mv "
    "nohup od printf ps pwd readlink rm sed seq setsid sh sleep sort stat sync tail tee test timeout touch tr true wc "
    "yes"
)


@dataclass(kw_only=True)
class Bed:
    """One installation in a directory of its own."""

    root: Path
    installation: str = field(default_factory=lambda: f"t{uuid.uuid4().hex[:10]}")
    provider: ProcessProvider = field(init=False)
    opened: list[ProcessProvider] = field(default_factory=list)
    options: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.provider = self.another()

    def another(self, installation: str | None = None) -> ProcessProvider:
        """Return one more provider, as after a restart of the server."""
        provider = ProcessProvider(installation=installation or self.installation, root=self.root, **self.options)
        self.opened.append(provider)
        return provider

    def place(self, name: str = "e1", installation: str | None = None) -> Place:
        return Place("", f"thunder-{installation or self.installation}-{name}")

    def labels(self, name: str = "e1") -> dict[str, str]:
        return {LABEL_INSTALLATION: self.installation, LABEL_ENVIRONMENT: name}

    def plan(self, name: str = "e1", *, snapshot: str | None = None, **spec: Any) -> Plan:
        ports = spec.pop("host_ports", {})
        return Plan(
            place=self.place(name),
            labels=self.labels(name),
            spec=EnvironmentSpec(**{"name": "shell", **spec}),
            snapshot=snapshot,
            ports=ports,
        )

    async def create(self, name: str = "e1", **options: Any) -> Sighting:
        return await self.provider.create(self.plan(name, **options))

    async def sh(self, script: str, name: str = "e1", **options: Any) -> Said:
        return await run(self.provider, self.place(name), script, **options)

    async def out(self, script: str, name: str = "e1", **options: Any) -> str:
        said = await self.sh(script, name, **options)
        assert said.status == 0, said
        return said.out.decode().strip()

    def directory(self, name: str = "e1") -> Path:
        return self.root / "environments" / self.place(name).handle

    def upper(self, name: str = "e1") -> Path:
        return self.directory(name) / "layer" / "upper"

    def record(self, place: Place) -> Record:
        path = self.root / "environments" / place.handle / "meta.json"
        return msgspec.json.decode(path.read_bytes(), type=Record)

    async def kill(self, place: Place) -> None:
        """End the main program behind the provider's back, frozen or not."""
        init = self.record(place).init
        assert init is not None
        for pid in children(init.pid):
            os.kill(pid, signal.SIGKILL)
        for group in self.groups(place.handle):
            thaw(group)
        send_signal(init, signal.SIGCONT)
        async with asyncio.timeout(DEADLINE_S):
            await wait_for_end(init)

    def groups(self, handle: str = "*") -> list[Path]:
        """Return the control groups of this installation's sandboxes."""
        found = Path("/sys/fs/cgroup").glob(f"thunder-{self.installation}/{handle}")
        deeper = Path("/sys/fs/cgroup").glob(f"*/thunder-{self.installation}/{handle}")
        return [path for path in (*found, *deeper) if path.is_dir()]

    def leftovers(self, installation: str | None = None) -> list[str]:
        """Return what is there of an installation, found without the provider."""
        sign = f"thunder-{installation or self.installation}"
        found = [str(path) for depth in ("", "*/") for path in Path("/sys/fs/cgroup").glob(depth + sign)]
        found += [str(path) for path in self.root.glob("*/*") if sign in path.name]
        found += [line for line in Path("/proc/self/mountinfo").read_text().splitlines() if str(self.root) in line]
        return found + [f"process {pid}" for pid in marked(f"{sign}-".encode())]

    async def reclaim(self) -> None:
        """Destroy whatever a survey by a new provider finds."""
        provider = self.another()
        for found in await provider.survey(""):
            if found.kind is Kind.ENVIRONMENT:
                await provider.destroy(Place("", found.name))
            else:
                await provider.drop_snapshot("", found.name)
        assert await provider.survey("") == []

    async def close(self) -> None:
        for provider in self.opened:
            await provider.aclose()


@asynccontextmanager
async def process_bed(installation: str | None = None, **options: Any) -> AsyncIterator[Bed]:
    """Yield an installation, of which nothing may remain."""
    root = Path(tempfile.mkdtemp(prefix="thunder-test-"))
    bed = Bed(root=root, options=options, installation=installation or f"t{uuid.uuid4().hex[:10]}")
    try:
        yield bed
        await bed.reclaim()
    finally:
        await bed.close()
    assert bed.leftovers() == []
    assert tree(root) == ["environments", "snapshots", "trash"]
    shutil.rmtree(root)


def tree(root: Path) -> list[str]:
    """Return what is below a directory."""
    return sorted(str(path.relative_to(root)) for path in root.rglob("*"))


def text(path: Path | str) -> str:
    return Path(path).read_text()


def thaw(group: Path) -> None:
    for name, value in (("freezer.state", "THAWED"), ("cgroup.freeze", "0")):
        if (group / name).exists():
            (group / name).write_text(value)


async def run(provider: ProcessProvider, place: Place, script: str, **options: Any) -> Said:
    process = await provider.spawn(place, ("/bin/sh", "-c", script), **options)
    try:
        await process.close_input()
        return await read_all(process)
    finally:
        await process.aclose()


def marked(sign: bytes) -> Iterator[int]:
    """Yield living processes that bubblewrap was started in."""
    for path in Path("/proc").iterdir():
        try:
            variables = (path / "environ").read_bytes() if path.name.isdigit() else b""
        except OSError:
            continue
        if MARKER.encode() + b"=" + sign in variables and identify(int(path.name)) is not None:
            yield int(path.name)


def make_image(directory: Path, programs: str = PROGRAMS) -> Path:
    """Make a root file system of this host's own programs and what they are linked with."""
    (directory / "etc").mkdir(parents=True)
    (directory / "bin").mkdir()
    (directory / "tmp").mkdir()
    (directory / "tmp").chmod(0o1777)
    for name in programs.split():
        source = Path(shutil.which(name) or name).resolve()
        shutil.copy(source, directory / "bin" / name)
        linked = subprocess.run(["ldd", source], capture_output=True, text=True, check=False).stdout
        for word in linked.split():
            if word.startswith("/") and not (directory / word[1:]).exists():
                (directory / word[1:]).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(Path(word).resolve(), directory / word[1:])
    (directory / "etc" / "marker").write_text("of the image\n")
    return directory
