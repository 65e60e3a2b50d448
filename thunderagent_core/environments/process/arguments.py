"""Turns a record into bubblewrap's command line. Nothing here touches the host."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from thunderagent_core.environments.process.launching import INFO_FD, USER_NAMESPACE_FD
from thunderagent_core.environments.process.records import Layer
from thunderagent_core.environments.process.rootfs import HOME, PROGRAMS, USER_ID, USER_NAME, View

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from thunderagent_core.environments.process.records import Record

IDLE: Final = ("/bin/sh",)
"""A shell whose input neither brings anything nor ends: it needs no other program."""

_STICKY: Final = "1777"
_PATH: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


@dataclass(frozen=True, slots=True, kw_only=True)
class Sources:
    """Where bubblewrap finds things.

    Args:
        layer: directory that holds ``upper`` and ``work``.
        image: root file system; None: programs of the host.
        mounts: sources of the specification's mounts, in its order.
        view: what is seen read-only; not used with an overlay.
    """

    layer: str
    image: str | None
    mounts: Sequence[str]
    view: View


def environment_variables(record: Record) -> dict[str, str]:
    """Return the variables of every command: nothing of the server's own.

    With a port 80 that the host knows as 34567, ``THUNDER_PORT_80`` is ``34567``: where the network is the host's,
    a program has to listen there.
    """
    base = {"PATH": _PATH, "HOME": HOME, "USER": USER_NAME, "LOGNAME": USER_NAME, "LANG": "C.UTF-8"}
    ports = {f"THUNDER_PORT_{inside}": str(outside) for inside, outside in host_ports(record).items()}
    return {**base, **ports, **record.spec.env}


def host_ports(record: Record) -> dict[int, int]:
    """Return the port on the host for each port inside: the one that was leased, or else the same."""
    return {inside: record.ports.get(inside) or inside for inside in record.spec.ports}


def options(record: Record, sources: Sources, *, own_user: bool, resolve: Callable[[str], str]) -> list[str]:
    """Return bubblewrap's options.

    Args:
        record: what to start.
        sources: where things are found.
        own_user: a user namespace has been made already.
        resolve: where a path inside leads.
    """
    spec = record.spec
    workdir = resolve(spec.workdir)
    parts = [
        namespaces(own_user=own_user, networked=spec.networked),
        ["--hostname", spec.name],
        _root(record, sources, resolve),
        ["--proc", "/proc", "--dev", "/dev"],
        ["--perms", _STICKY, "--size", str(spec.memory_bytes), "--tmpfs", "/dev/shm"],  # noqa: S108
        *(["--perms", _STICKY, "--dir", resolve(path)] for path in ("/tmp", "/var/tmp")),  # noqa: S108
        *(["--dir", resolve(path)] for path in ("/run", HOME)),
        *(
            ["--ro-bind", source, resolve(mount.target)]
            for source, mount in zip(sources.mounts, spec.mounts, strict=True)
        ),
        ["--dir", workdir, "--chdir", workdir],
        _variables(environment_variables(record)),
    ]
    return [word for part in parts for word in part]


def tool_options(root: str) -> list[str]:
    """Return the options for a tool that works on the files of environments: it sees them, and dies with the server.

    What it was about when the server was killed could otherwise go on when the next server clears away.
    """
    programs = [word for name in PROGRAMS for word in ("--ro-bind-try", f"/{name}", f"/{name}")]
    return ["--die-with-parent", *programs, "--dev", "/dev", "--bind", root, root, "--chdir", "/", "--"]


def namespaces(*, own_user: bool, networked: bool) -> list[str]:
    """Return the options that cut a sandbox off: no privileges, its own users, processes, and mostly network."""
    user = str(USER_ID)
    made = ["--userns", str(USER_NAMESPACE_FD)] if own_user else ["--unshare-user", "--disable-userns"]
    kinds = ["--unshare-pid", "--unshare-ipc", "--unshare-uts", *([] if networked else ["--unshare-net"])]
    facts = ["--info-fd", str(INFO_FD)]
    return [*made, "--uid", user, "--gid", user, *kinds, "--new-session", "--cap-drop", "ALL", *facts]


def _root(record: Record, sources: Sources, resolve: Callable[[str], str]) -> list[str]:
    upper = f"{sources.layer}/upper"
    if record.layer is Layer.OVERLAY and sources.image is not None:
        return ["--overlay-src", sources.image, "--overlay", upper, f"{sources.layer}/work", "/"]
    below = sources.image or ""
    words = ["--bind", upper, "/"]
    for inside, target in sources.view.links.items():
        words += ["--symlink", target, inside]
    for inside, source in sources.view.binds.items():
        words += ["--ro-bind", below + source, resolve(inside)]
    return words


def _variables(variables: Mapping[str, str]) -> list[str]:
    return ["--clearenv", *(word for item in variables.items() for word in ("--setenv", *item))]
