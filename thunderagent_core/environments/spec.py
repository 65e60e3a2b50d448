"""What a program asks for: one sandbox, in words that every provider understands."""

from __future__ import annotations

import hashlib
import re
from typing import TYPE_CHECKING, Any, Final, Literal

import msgspec

if TYPE_CHECKING:
    from collections.abc import Iterator

NAME_PATTERN: Final = "[a-z0-9][a-z0-9_-]{0,62}"
MAX_ENVIRONMENTS: Final = 16
"""Environments of one program at most."""

_MEBIBYTE: Final = 1 << 20
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_HIGHEST_PORT: Final = 65535


class SpecError(ValueError):
    """A specification that cannot be used. ``param`` names the field at fault, as in ``memory_bytes``."""

    def __init__(self, param: str, message: str) -> None:
        super().__init__(message)
        self.param = param


class Mount(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A directory or file of the host, read-only inside.

    Args:
        source: absolute path on the host; the operator says below which roots it may lie.
        target: absolute path inside.
    """

    source: str
    target: str


class Hook(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What to do when an environment is ready or about to be reclaimed: exactly one of the two.

    Args:
        command: a shell command inside the environment.
        url: an HTTP address that gets a POST with the environment's id, name, program and event.
        timeout_s: longest time in seconds; a hook that takes longer has failed.
    """

    command: str | None = None
    url: str | None = None
    timeout_s: float = 10.0


class EnvironmentSpec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """One environment. Sizes in bytes, times in seconds.

    Args:
        name: what the program calls it, unique within the program.
        provider: ``docker``, ``process`` or ``scripted``; None: the server's default.
        image: Docker: reference of an image. Process: None, or the absolute path of a root file system.
        command: arguments of the main program, such as an agent server; None: it idles and waits for commands.
        env: environment variables of every command.
        workdir: directory in which commands run; it is made where it does not exist.
        setup: shell commands run once, in order, before it counts as ready; one that fails fails the environment.
        mounts: read-only mounts.
        network: whether it may reach the network. Asking for ports implies it.
        ports: TCP ports inside that are to be reachable from the host.
        memory_bytes: memory limit.
        cpus: processors, as in 0.5.
        pids: processes and threads at most.
        disk_bytes: disk reserved at admission; what is used beyond it counts as well.
        on_ready: run once it is ready, before its program sees it.
        on_reclaim: run before it is destroyed.
    """

    name: str
    provider: Literal["docker", "process", "scripted"] | None = None
    image: str | None = None
    command: tuple[str, ...] | None = None
    env: dict[str, str] = {}
    workdir: str = "/workspace"
    setup: tuple[str, ...] = ()
    mounts: tuple[Mount, ...] = ()
    network: bool = False
    ports: tuple[int, ...] = ()
    memory_bytes: int = 1024 * _MEBIBYTE
    cpus: float = 1.0
    pids: int = 512
    disk_bytes: int = 256 * _MEBIBYTE
    on_ready: Hook | None = None
    on_reclaim: Hook | None = None

    @property
    def digest(self) -> str:
        """A short name of everything but ``name``: equal for environments that could stand in for one another."""
        same = msgspec.structs.replace(self, name="x")
        return hashlib.sha256(msgspec.json.encode(same, order="sorted")).hexdigest()[:16]

    @property
    def networked(self) -> bool:
        """Whether it is attached to a network."""
        return self.network or bool(self.ports)


def read_specs(content: Any, param: str = "environments") -> tuple[EnvironmentSpec, ...]:
    """Return the specifications in JSON content that a client sent.

    Raises:
        SpecError: it is no list of specifications; ``param`` names the field, as in ``environments[0].memory_bytes``.
    """
    if not isinstance(content, list):
        raise SpecError(param, "must be a list of environments")
    if len(content) > MAX_ENVIRONMENTS:
        raise SpecError(param, f"a program may have {MAX_ENVIRONMENTS} environments, not {len(content)}")
    specs = tuple(_read(item, f"{param}[{index}]") for index, item in enumerate(content))
    names = [spec.name for spec in specs]
    for index, name in enumerate(names):
        if name in names[:index]:
            raise SpecError(f"{param}[{index}].name", f"{name!r} is there twice")
    return specs


def read_spec(content: Any) -> EnvironmentSpec:
    """Return the one specification in JSON content that a client sent.

    Raises:
        SpecError: it is none; ``param`` names the field, as in ``memory_bytes``.
    """
    return _read(content, "")


def _read(item: Any, param: str) -> EnvironmentSpec:
    if isinstance(item, dict):
        known = EnvironmentSpec.__struct_fields__
        for key in item:
            if key not in known:
                raise UnknownFieldError(_within(param, f".{key}"), key, known)
    try:
        spec = msgspec.convert(item, EnvironmentSpec)
    except msgspec.ValidationError as error:
        text, _, path = str(error).partition(" - at `$")
        raise SpecError(_within(param, path.rstrip("`")), text) from None
    for field, problem in _problems(spec):
        raise SpecError(_within(param, f".{field}"), problem)
    return spec


def _within(param: str, path: str) -> str:
    return f"{param}{path}" if param else path.removeprefix(".")


class UnknownFieldError(SpecError):
    """A field that specifications do not have."""

    def __init__(self, param: str, given: str, known: tuple[str, ...]) -> None:
        super().__init__(param, f"unknown field {given!r}")
        self.given, self.known = given, known


def _problems(spec: EnvironmentSpec) -> Iterator[tuple[str, str]]:
    """Yield each field that holds a value of the right type that cannot be used, and why."""
    if not re.fullmatch(NAME_PATTERN, spec.name):
        yield "name", f"must match {NAME_PATTERN}"
    if not spec.workdir.startswith("/"):
        yield "workdir", "must be an absolute path"
    for name, value in spec.env.items():
        if not _VARIABLE.fullmatch(name) or "\0" in value:
            yield "env", f"{name!r} is no name of an environment variable, or its value holds a zero byte"
    if any(not 0 < port <= _HIGHEST_PORT for port in spec.ports) or len(set(spec.ports)) < len(spec.ports):
        yield "ports", "must be different numbers from 1 to 65535"
    for mount in spec.mounts:
        if not (mount.source.startswith("/") and mount.target.startswith("/")) or ".." in mount.source.split("/"):
            yield "mounts", "source and target must be absolute paths without .."
    yield from _size_problems(spec)
    for field in ("on_ready", "on_reclaim"):
        hook: Hook | None = getattr(spec, field)
        if hook is not None and ((hook.command is None) == (hook.url is None) or hook.timeout_s <= 0):
            yield field, "needs either a command or a url, and a time-out above 0"


def _size_problems(spec: EnvironmentSpec) -> Iterator[tuple[str, str]]:
    if spec.memory_bytes < 16 * _MEBIBYTE:
        yield "memory_bytes", "must be at least 16 MiB"
    if spec.cpus <= 0:
        yield "cpus", "must be above 0"
    if spec.pids < 8:  # noqa: PLR2004 - an init, a shell and a command with a few children
        yield "pids", "must be at least 8"
    if spec.disk_bytes < 0:
        yield "disk_bytes", "must not be negative"
