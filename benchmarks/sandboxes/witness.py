"""Looks at environments from outside the server: what they allocate, when they are gone, and what is left of them.

Nothing here asks the server: what it says of itself is what is to be checked.
"""

from __future__ import annotations

import asyncio
import json
import shutil
import sqlite3
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Protocol
from urllib.parse import quote

from thunderagent_core.environments.base import LABEL_ENVIRONMENT, LABEL_INSTALLATION, Kind, Place
from thunderagent_core.environments.docker.disk import allocated_bytes
from thunderagent_core.environments.process.provider import ProcessProvider

if TYPE_CHECKING:
    from benchmarks.testbed.docker_engine import Engine

_OVERLAP_S: Final = 2.0
"""Events are asked for again for so long, since one may be told late."""


@dataclass(slots=True)
class Sight:
    """What is there at one moment.

    Args:
        allocated: bytes allocated by each environment, by its id.
        free_bytes: free space where they are stored.
    """

    allocated: dict[str, int]
    free_bytes: int


class Witness(Protocol):
    """Of one installation. Its methods block."""

    made: dict[str, float]
    """When each environment appeared, in seconds since 1970."""
    gone: dict[str, float]
    """When nothing was left of it."""

    def look(self) -> Sight:
        """Look, and bring ``made`` and ``gone`` up to date."""
        ...

    def leftovers(self) -> list[str]:
        """Return what is left."""
        ...

    def purge(self) -> None:
        """Remove what is left; the server must have ended."""
        ...


def installation_of(state: Path) -> str:
    """Return the installation that a server's ledger names."""
    connection = sqlite3.connect(f"file:{state / 'environments.sqlite'}?mode=ro", uri=True)
    try:
        (name,) = connection.execute("SELECT id FROM installation").fetchone()
    finally:
        connection.close()
    return str(name)


class DockerWitness:
    """By the daemon's events, and by the blocks below the writable layers.

    Args:
        engine: the daemon.
        installation: whose containers.
    """

    def __init__(self, engine: Engine, installation: str) -> None:
        self.made: dict[str, float] = {}
        self.gone: dict[str, float] = {}
        self._engine = engine
        self._installation = installation
        self._since = time.time() - 1.0
        self._layers: dict[str, list[Path]] = {}
        self._root = str(engine.request("GET", "/info")[1]["DockerRootDir"])

    def look(self) -> Sight:
        """See ``Witness``. The daemon tells of a container's end when its layer has been removed."""
        self._take_events()
        for environment in self.made.keys() - self.gone.keys() - self._layers.keys():
            if layers := self._layers_of(environment):
                self._layers[environment] = layers
        # A layer counts for as long as it exists, whatever the daemon says of its container.
        sizes = {name: _size(paths) for name, paths in self._layers.items() if any(path.exists() for path in paths)}
        return Sight(sizes, shutil.disk_usage(self._root).free)

    def leftovers(self) -> list[str]:
        """See ``Witness``."""
        layers = [str(path) for paths in self._layers.values() for path in paths if path.exists()]
        return [f"{kind} {name}" for kind, name in self._engine.leftovers(self._installation)] + layers

    def purge(self) -> None:
        """See ``Witness``."""
        self._engine.purge(self._installation)

    def _take_events(self) -> None:
        now = time.time()
        label = f"{LABEL_INSTALLATION}={self._installation}"
        wanted = quote(json.dumps({"type": ["container"], "event": ["create", "destroy"], "label": [label]}))
        path = f"/events?since={self._since - _OVERLAP_S:.3f}&until={now:.3f}&filters={wanted}"
        content = self._engine.request("GET", path)[1]
        for event in _each(content):
            environment = event["Actor"]["Attributes"].get(LABEL_ENVIRONMENT, "")
            times = self.made if event["Action"] == "create" else self.gone
            times.setdefault(environment, event["timeNano"] / 1e9)
        self._since = now

    def _layers_of(self, environment: str) -> list[Path]:
        container = self._engine.inspect(f"thunder-{self._installation}-{environment}")
        upper = ((container or {}).get("GraphDriver") or {}).get("Data", {}).get("UpperDir")
        return [Path(upper), Path(upper).with_name("work")] if upper else []


class ProcessWitness:
    """By the directories below the provider's root; as exact as it is asked often.

    Args:
        root: the provider's directory.
        installation: whose sandboxes.
    """

    def __init__(self, root: Path, installation: str) -> None:
        self.made: dict[str, float] = {}
        self.gone: dict[str, float] = {}
        self._root = root
        self._installation = installation

    def look(self) -> Sight:
        """See ``Witness``."""
        now, found = time.time(), dict[str, list[Path]]()
        for path in self._paths():
            handle = path.name.removeprefix(".new-").split("~")[0]
            found.setdefault(handle.removeprefix(f"thunder-{self._installation}-"), []).append(path)
        for environment in found:
            self.made.setdefault(environment, now)
        for environment in self.made.keys() - found.keys():
            self.gone.setdefault(environment, now)
        return Sight({name: _size(paths) for name, paths in found.items()}, shutil.disk_usage(self._root.parent).free)

    def leftovers(self) -> list[str]:
        """See ``Witness``."""
        groups = Path("/sys/fs/cgroup").glob(f"**/thunder-{self._installation}/*/")
        return [str(path) for path in (*self._paths(), *groups)]

    def purge(self) -> None:
        """See ``Witness``."""
        asyncio.run(_destroy_all(ProcessProvider(installation=self._installation, root=self._root)))

    def _paths(self) -> list[Path]:
        sign = f"thunder-{self._installation}-"
        folders = [self._root / name for name in ("environments", "trash")]
        return [path for folder in folders if folder.is_dir() for path in folder.iterdir() if sign in path.name]


async def _destroy_all(provider: ProcessProvider) -> None:
    try:
        for found in await provider.survey(""):
            if found.kind is Kind.ENVIRONMENT:
                await provider.destroy(Place("", found.name))
    finally:
        await provider.aclose()


def _each(content: Any) -> list[dict[str, Any]]:
    """Return the events of an answer: one, or one in each line."""
    if isinstance(content, dict):
        return [content]
    lines = content.decode().splitlines() if isinstance(content, bytes) else str(content).splitlines()
    return [json.loads(line) for line in lines if line.strip()]


def _size(paths: list[Path]) -> int:
    return allocated_bytes(path for path in paths if path.exists()) or 0
