"""One test's installation on a real engine, and the engine of ``benchmarks.testbed``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from benchmarks.testbed.docker_engine import IMAGE, Engine, docker_engine, import_image, root_file_system
from thunderagent_core.environments.base import LABEL_ENVIRONMENT, LABEL_INSTALLATION, Place, Plan
from thunderagent_core.environments.spec import EnvironmentSpec

if TYPE_CHECKING:
    from thunderagent_core.environments.base import Provider
    from thunderagent_core.environments.docker.provider import DockerProvider

__all__ = ["IMAGE", "DockerBed", "Engine", "docker_engine", "import_image", "root_file_system"]


class DockerBed:
    """One test's installation on a real engine."""

    def __init__(self, provider: DockerProvider, engine: Engine, image: str, installation: str) -> None:
        self.provider: Provider = provider
        self.docker = provider
        self.engine = engine
        self.image = image
        self.installation = installation
        self.url = engine.url

    def place(self, environment: str = "e1") -> Place:
        return Place(self.url, f"thunder-{self.installation}-{environment}")

    def plan(
        self,
        environment: str = "e1",
        *,
        snapshot: str | None = None,
        host_ports: dict[int, int] | None = None,
        **spec: Any,
    ) -> Plan:
        return Plan(
            place=self.place(environment),
            labels={LABEL_INSTALLATION: self.installation, LABEL_ENVIRONMENT: environment},
            spec=EnvironmentSpec(**{"name": "shell", "image": self.image, "memory_bytes": 64 << 20, **spec}),
            snapshot=snapshot,
            ports=host_ports or {},
        )

    async def shell(self, script: str, environment: str = "e1") -> tuple[int, str]:
        """Run a script and return its exit status and all its output."""
        process = await self.provider.spawn(self.place(environment), ["/bin/sh", "-c", script])
        await process.close_input()
        output = b""
        while (piece := await process.read()) is not None:
            output += piece[1]
        status = await process.wait()
        await process.aclose()
        return status, output.decode()

    async def reclaim_all(self) -> None:
        """Do what a manager does with an installation that has ended."""
        found = await self.provider.survey(self.url)
        for entry in found:
            if entry.kind == "environment":
                await self.provider.destroy(Place(self.url, entry.name))
        for entry in await self.provider.survey(self.url):
            await self.provider.drop_snapshot(self.url, entry.name)
        await self.provider.destroy(self.place("never-there"))
