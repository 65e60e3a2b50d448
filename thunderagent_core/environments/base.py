"""What the manager needs of a sandbox technology. Real providers and the scripted one obey the same contract tests.

A provider holds no state that matters: whatever it knows about an environment it can find out again from the
deterministic handle and from labels. Every effect is idempotent, so that it may be repeated after a crash.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Final, Protocol

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping, Sequence

    from thunderagent_core.environments.spec import EnvironmentSpec

LABEL_INSTALLATION: Final = "org.thunderagent.installation"
LABEL_ENVIRONMENT: Final = "org.thunderagent.environment"
LABEL_PROGRAM: Final = "org.thunderagent.program"


class Liveness(StrEnum):
    """What a provider can say of an environment. UNKNOWN frees nothing and destroys nothing."""

    ALIVE = "alive"
    FROZEN = "frozen"
    STOPPED = "stopped"
    """It exists but its main program has ended (or never began): its files are still there."""
    GONE = "gone"
    UNKNOWN = "unknown"


class ProviderError(Exception):
    """An effect failed and it is known that it did, such as an image that does not exist.

    Args:
        message: a sentence for a person.
        code: a word for a program, such as ``image_not_found``.
        permanent: trying again cannot help.
    """

    def __init__(self, message: str, *, code: str = "provider_error", permanent: bool = False) -> None:
        super().__init__(message)
        self.code = code
        self.permanent = permanent


class ProviderUnavailableError(ProviderError):
    """The provider cannot be reached, so whether an effect took place is unknown. Always worth trying again."""

    def __init__(self, message: str) -> None:
        super().__init__(message, code="provider_unavailable")


@dataclass(frozen=True, slots=True)
class Place:
    """Where an environment is to be found.

    Args:
        endpoint: which daemon or host, as the provider names it; empty where it has only one.
        handle: its deterministic name there, ``thunder-<installation>-<environment id>``.
    """

    endpoint: str
    handle: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """All that is needed to make an environment, decided and durable before anything is made.

    Args:
        place: where, and under which name.
        labels: what everything that is made for it carries; holds ``LABEL_INSTALLATION`` and ``LABEL_ENVIRONMENT``.
        spec: what was asked for.
        snapshot: make it from this snapshot rather than from ``spec.image``.
        ports: host port leased for each port inside; 0: the daemon chooses.
    """

    place: Place
    labels: Mapping[str, str]
    spec: EnvironmentSpec
    snapshot: str | None = None
    ports: Mapping[int, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Sighting:
    """One look at an environment.

    Args:
        liveness: what is certain.
        host: address at which its ports can be reached.
        ports: host port of each port inside, read from the daemon after the last start.
    """

    liveness: Liveness
    host: str = "127.0.0.1"
    ports: Mapping[int, int] = field(default_factory=dict)


class Kind(StrEnum):
    """What a survey can find."""

    ENVIRONMENT = "environment"
    SNAPSHOT = "snapshot"


@dataclass(frozen=True, slots=True)
class Found:
    """Something on an endpoint that carries our installation's label (a container in any state, a snapshot, a remnant).

    Args:
        kind: environment or snapshot.
        name: its handle, or the snapshot's name.
        environment_id: from its label.
        liveness: of an environment.
    """

    kind: Kind
    name: str
    environment_id: str
    liveness: Liveness = Liveness.STOPPED


@dataclass(frozen=True, slots=True)
class Room:
    """What an endpoint has left. ``free_disk_bytes`` lies below where environments are stored."""

    endpoint: str
    free_disk_bytes: int
    environments: int


class Stream(StrEnum):
    """Which of a command's outputs."""

    STDOUT = "stdout"
    STDERR = "stderr"


class Process(Protocol):
    """A running process inside an environment."""

    async def write(self, data: bytes) -> None:
        """Feed its standard input. Raises ProviderError once it has ended."""
        ...

    async def close_input(self) -> None:
        """End its standard input."""
        ...

    async def read(self) -> tuple[Stream, bytes] | None:
        """Return the next piece of output, in order within each stream; None once both have ended."""
        ...

    async def wait(self) -> int:
        """Return its exit status, 128 + N where signal N ended it. Call after ``read`` returned None."""
        ...

    async def aclose(self) -> None:
        """Drop the connection to it; where it belongs to the provider itself (no daemon), end it."""
        ...


class Provider(Protocol):
    """Makes, looks at and destroys environments.

    Every method is bounded by time-outs of the provider's own and raises ProviderUnavailableError where it could not
    find out what happened, ProviderError where it failed for certain. Cancellation is allowed at any await; what it
    leaves behind, ``destroy`` removes.
    """

    name: str

    async def rooms(self) -> Sequence[Room]:
        """Return the endpoints that answer, best first. Raises ProviderUnavailableError where none does."""
        ...

    async def create(self, plan: Plan) -> Sighting:
        """Make and start it; where it exists already under this handle and with our label, go on from there.

        Returns only when commands can be spawned in it. A failed or cancelled attempt may leave a part behind.
        """
        ...

    async def look(self, place: Place) -> Sighting:
        """Say what is certain; never raises ProviderUnavailableError but returns UNKNOWN."""
        ...

    async def start(self, place: Place) -> Sighting:
        """Start one that is STOPPED again, with its files; ports are read again. Idempotent."""
        ...

    async def spawn(
        self, place: Place, command: Sequence[str], *, env: Mapping[str, str] | None = None, workdir: str | None = None
    ) -> Process:
        """Start a process in an environment that is ALIVE, as a session leader of its own."""
        ...

    async def freeze(self, place: Place) -> None:
        """Stop all its processes where they are. Idempotent."""
        ...

    async def thaw(self, place: Place) -> None:
        """Let them go on. Idempotent."""
        ...

    async def snapshot(self, place: Place, name: str, labels: Mapping[str, str]) -> None:
        """Store its files (not its processes) under ``name``, replacing an unfinished one. It may be frozen."""
        ...

    async def snapshot_is_whole(self, endpoint: str, name: str) -> bool:
        """Whether a snapshot can be relied on: complete, readable, and ours."""
        ...

    async def drop_snapshot(self, endpoint: str, name: str) -> None:
        """Remove a snapshot. Idempotent; returns only when it is gone."""
        ...

    async def destroy(self, place: Place) -> None:
        """Remove it in whatever state it is, with its volumes, networks, mounts, cgroups and files.

        Idempotent; returns only when nothing is left. Touches nothing without our installation's label.
        """
        ...

    async def survey(self, endpoint: str) -> Sequence[Found]:
        """Return everything there that carries our installation's label, remnants of half-made ones included."""
        ...

    async def disk_bytes(self, place: Place) -> int | None:
        """Return the blocks that its writable layer has allocated, in bytes; None where that cannot be measured."""
        ...

    def deaths(self) -> AsyncIterator[Place]:
        """Yield environments whose main program ended without our doing; hints, not evidence. Never raises."""
        ...

    async def aclose(self) -> None:
        """Close connections; environments live on."""
        ...
