"""The world behind scripted providers: what daemons hold, which outlives whoever talks to them."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections import Counter, deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from thunderagent_core.environments.base import (
    LABEL_ENVIRONMENT,
    LABEL_INSTALLATION,
    Liveness,
    Place,
    ProviderError,
    ProviderUnavailableError,
)
from thunderagent_core.environments.images import StoredImage
from thunderagent_core.environments.scripted.faults import Faults
from thunderagent_core.environments.scripted.files import Files
from thunderagent_core.environments.scripted.members import end_members

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from thunderagent_core.environments.spec import EnvironmentSpec

_FIRST_PORT: Final = 32768
_LAST_PORT: Final = 60999
_MAX_EFFECTS: Final = 1_000_000
_MAX_UNREAD_DEATHS: Final = 10_000


@dataclass(frozen=True, slots=True)
class Effect:
    """Something that took place: ``made``, ``started``, ``frozen``, ``thawed``, ``snapshotted``, ``dropped``,
    ``destroyed``, ``died``, ``vanished`` or ``image removed``, and of what."""  # noqa: D209, D205 - one sentence

    name: str
    endpoint: str
    handle: str


@dataclass(slots=True, kw_only=True)
class Box:
    """An environment as a daemon holds it.

    Args:
        place: where.
        labels: what it carries.
        spec: of what it was made.
        wanted_ports: host port asked for, for each one inside.
        files: its writable layer.
        liveness: ALIVE, FROZEN or STOPPED; one half made is STOPPED.
        ports: host port of each inside since the last start.
        token: marks its processes.
        spawned: whether it has had processes.
    """

    place: Place
    labels: Mapping[str, str]
    spec: EnvironmentSpec | None
    wanted_ports: Mapping[int, int] = field(default_factory=dict)
    files: Files = field(default_factory=Files)
    liveness: Liveness = Liveness.STOPPED
    ports: dict[int, int] = field(default_factory=dict)
    token: str = field(default_factory=lambda: secrets.token_hex(8))
    spawned: bool = False

    @property
    def environment_id(self) -> str:
        """From its label."""
        return self.labels.get(LABEL_ENVIRONMENT, "")


@dataclass(slots=True, kw_only=True)
class Snapshot:
    """A stored copy of files; not whole until it is finished."""

    labels: Mapping[str, str]
    files: Files = field(default_factory=Files)
    whole: bool = False


class ScriptedWorld:
    """Some daemons with what they hold, and a plan of what is to go wrong.

    Args:
        endpoints: names of the daemons.
        images: which images exist; None: every one.
        shell: what runs where ``/bin/sh`` is asked for.
        disk_bytes: room of each daemon.
        image_bytes: size of each image.
    """

    def __init__(
        self,
        *,
        endpoints: Sequence[str] = ("",),
        images: frozenset[str | None] | None = None,
        shell: Sequence[str] = ("/bin/sh",),
        disk_bytes: int = 1 << 40,
        image_bytes: int = 100 << 20,
    ) -> None:
        self.endpoints = tuple(endpoints)
        self.images = images
        self.shell = tuple(shell)
        self.disk_bytes = disk_bytes
        self.image_bytes = image_bytes
        self.faults = Faults()
        self.down: set[str] = set()
        """Daemons that do not answer."""
        self.boxes: dict[Place, Box] = {}
        self.snapshots: dict[tuple[str, str], Snapshot] = {}
        self.stored_images: dict[tuple[str, str], StoredImage] = {}
        """By daemon and name: what was pulled, by whomever."""
        self.calls: Counter[str] = Counter()
        """How often each operation was called."""
        self.effects: deque[Effect] = deque(maxlen=_MAX_EFFECTS)
        """What took place, in order."""
        self._listeners: set[asyncio.Queue[Box]] = set()
        self._next_port = _FIRST_PORT

    # Tests call these: they happen behind everybody's back.

    async def kill(self, place: Place) -> None:
        """End the main program of an environment and with it all others; its files stay."""
        box = self.boxes[place]
        box.liveness = Liveness.STOPPED
        box.ports.clear()
        await self.end_processes(box)
        self.record("died", place)
        for listener in self._listeners:
            with contextlib.suppress(asyncio.QueueFull):
                listener.put_nowait(box)

    async def vanish(self, place: Place) -> None:
        """Remove an environment; nobody is told."""
        if (box := self.boxes.pop(place, None)) is not None:
            await self.end_processes(box)
            box.files.remove()
            self.record("vanished", place)

    async def restart(self, endpoint: str) -> None:
        """Let a daemon end and come back: its environments are stopped then."""
        for place, box in list(self.boxes.items()):
            if place.endpoint == endpoint and box.liveness is not Liveness.STOPPED:
                await self.kill(place)
        self.down.discard(endpoint)

    def damage(self, endpoint: str, name: str) -> None:
        """Make a snapshot unusable."""
        self.snapshots[endpoint, name].whole = False

    def add_foreign(self, place: Place, installation: str = "") -> None:
        """Put there an environment of somebody else: of another installation, or without any label of ours."""
        labels = {LABEL_INSTALLATION: installation, LABEL_ENVIRONMENT: "foreign"} if installation else {}
        self.boxes[place] = Box(place=place, labels=labels, spec=None, liveness=Liveness.ALIVE)

    def store_image(self, endpoint: str, image: str) -> StoredImage:
        """Put there an image, in place of what had that name."""
        stored = StoredImage(secrets.token_hex(8), self.image_bytes)
        self.stored_images[endpoint, image] = stored
        return stored

    def destroyed(self) -> list[str]:
        """Return the handles of all environments that a provider destroyed, in order."""
        return [effect.handle for effect in self.effects if effect.name == "destroyed"]

    async def aclose(self) -> None:
        """Remove all that is left, with processes and files."""
        for place in list(self.boxes):
            await self.vanish(place)
        for snapshot in self.snapshots.values():
            snapshot.files.remove()
        self.snapshots.clear()

    # Providers call these.

    def reach(self, endpoint: str) -> None:
        """Raise ProviderUnavailableError where a daemon does not answer, ProviderError where there is none."""
        if endpoint not in self.endpoints:
            raise ProviderError(f"there is no endpoint {endpoint!r}", code="unknown_endpoint", permanent=True)
        if endpoint in self.down:
            raise ProviderUnavailableError(f"endpoint {endpoint!r} is down")

    def record(self, name: str, place: Place) -> None:
        """Take note of an effect."""
        self.effects.append(Effect(name, place.endpoint, place.handle))

    def start(self, box: Box) -> None:
        """Start an environment: its ports are bound anew. Raises ProviderError where one is taken."""
        used = {
            port
            for other in self.boxes.values()
            if other is not box and other.place.endpoint == box.place.endpoint
            for port in other.ports.values()
        }
        taken = {port for port in box.wanted_ports.values() if port in used}
        if taken:
            raise ProviderError(f"port {min(taken)} is in use", code="port_taken")
        box.ports = {inside: wanted or self._free_port(used) for inside, wanted in box.wanted_ports.items()}
        box.liveness = Liveness.ALIVE
        self.record("started", box.place)

    def used_bytes(self, endpoint: str) -> int:
        """Return the disk that environments and snapshots use at a daemon."""
        boxes = sum(box.files.allocated_bytes() for place, box in self.boxes.items() if place.endpoint == endpoint)
        return boxes + sum(kept.files.allocated_bytes() for (at, _), kept in self.snapshots.items() if at == endpoint)

    async def end_processes(self, box: Box) -> None:
        """Kill what runs in an environment."""
        if box.spawned:
            await end_members(box.token)
            box.spawned = False

    def listen(self) -> asyncio.Queue[Box]:
        """Return a queue of environments that die from now on; what nobody reads is lost beyond a bound."""
        listener: asyncio.Queue[Box] = asyncio.Queue(_MAX_UNREAD_DEATHS)
        self._listeners.add(listener)
        return listener

    def unlisten(self, listener: asyncio.Queue[Box]) -> None:
        """Fill this queue no longer."""
        self._listeners.discard(listener)

    def _free_port(self, used: set[int]) -> int:
        while True:
            port = self._next_port
            self._next_port = port + 1 if port < _LAST_PORT else _FIRST_PORT
            if port not in used:
                used.add(port)
                return port
