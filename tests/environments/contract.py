"""What every provider promises, as tests that know nothing of the technology behind it.

``test_contract.py`` runs them on each provider. Commands use paths relative to the working directory, because a
scripted environment has no root of its own.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from thunderagent_core.environments.base import (
    LABEL_ENVIRONMENT,
    LABEL_INSTALLATION,
    LABEL_PROGRAM,
    Kind,
    Place,
    Plan,
    Stream,
)
from thunderagent_core.environments.exec import Executor
from thunderagent_core.environments.spec import EnvironmentSpec

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Mapping

    from thunderagent_core.environments.base import Process, Provider, Sighting

DEADLINE_S = 60.0
WORKDIR = "/workspace"


@dataclass(frozen=True)
class Said:
    status: int
    out: bytes
    err: bytes


@dataclass(kw_only=True)
class Subject:
    """A provider on trial.

    Args:
        open_provider: makes another one over the same world, for an installation.
        kill: ends the main program of an environment behind the provider's back.
        leftovers: what is there of an installation, found without the provider.
        spec: fields of every specification.
        missing_image: an image that does not exist.
        image_file: a file, relative to the root, that comes with the image; None where images have none.
    """

    name: str
    endpoint: str
    installation: str
    provider: Provider
    open_provider: Callable[[str], Provider]
    kill: Callable[[Place], Awaitable[None]]
    leftovers: Callable[[str], Awaitable[list[str]]]
    spec: dict[str, Any]
    missing_image: str
    image_file: str | None = None
    has_ports: bool = True
    opened: list[Provider] = field(default_factory=list)

    def another(self, installation: str | None = None) -> Provider:
        """Return a second provider, as after a restart of the server, or of somebody else."""
        provider = self.open_provider(installation or self.installation)
        self.opened.append(provider)
        return provider

    def place(self, name: str = "e1", installation: str | None = None) -> Place:
        return Place(self.endpoint, f"thunder-{installation or self.installation}-{name}")

    def labels(self, name: str = "e1", installation: str | None = None) -> dict[str, str]:
        return {
            LABEL_INSTALLATION: installation or self.installation,
            LABEL_ENVIRONMENT: name,
            LABEL_PROGRAM: "p1",
        }

    def snapshot_name(self, name: str = "s1") -> str:
        return f"thunder-{self.installation}-{name}"

    def plan(
        self,
        name: str = "e1",
        *,
        installation: str | None = None,
        snapshot: str | None = None,
        host_ports: Mapping[int, int] | None = None,
        **spec: Any,
    ) -> Plan:
        return Plan(
            place=self.place(name, installation),
            labels=self.labels(name, installation),
            spec=EnvironmentSpec(**{"name": "shell", "workdir": WORKDIR, **self.spec, **spec}),
            snapshot=snapshot,
            ports=host_ports or {},
        )

    async def create(self, name: str = "e1", **options: Any) -> Sighting:
        return await self.provider.create(self.plan(name, **options))

    async def sh(self, script: str, name: str = "e1", *, stdin: bytes = b"", **options: Any) -> Said:
        """Run a script as a process of its own."""
        options.setdefault("workdir", WORKDIR)
        process = await self.provider.spawn(self.place(name), ("/bin/sh", "-c", script), **options)
        try:
            for at in range(0, len(stdin), 65536):
                await process.write(stdin[at : at + 65536])
            await process.close_input()
            return await read_all(process)
        finally:
            await process.aclose()

    @asynccontextmanager
    async def executor(self, name: str = "e1", **options: Any) -> AsyncIterator[Executor]:
        executor = Executor(self.provider, self.place(name), workdir=WORKDIR, **options)
        try:
            yield executor
        finally:
            await executor.aclose()

    async def reclaim_all(self) -> None:
        for found in await self.provider.survey(self.endpoint):
            if found.kind is Kind.ENVIRONMENT:
                await self.provider.destroy(Place(self.endpoint, found.name))
        for found in await self.provider.survey(self.endpoint):
            if found.kind is Kind.SNAPSHOT:
                await self.provider.drop_snapshot(self.endpoint, found.name)

    async def close(self) -> None:
        for provider in self.opened:
            await provider.aclose()
        await self.provider.aclose()


async def read_all(process: Process) -> Said:
    said = {Stream.STDOUT: bytearray(), Stream.STDERR: bytearray()}
    async with asyncio.timeout(DEADLINE_S):
        while (piece := await process.read()) is not None:
            said[piece[0]] += piece[1]
        status = await process.wait()
    return Said(status, bytes(said[Stream.STDOUT]), bytes(said[Stream.STDERR]))


async def eventually(condition: Callable[[], Awaitable[bool]]) -> None:
    """Wait until it holds; fail after a long time."""
    deadline = time.monotonic() + DEADLINE_S
    while not await condition():
        assert time.monotonic() < deadline, "it never came about"
        await asyncio.sleep(0.02)
