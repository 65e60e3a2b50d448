"""What a sandbox sees of the host or of its image, and the few files that it gets of its own.

Of the host that is its programs and libraries, and those parts of ``/etc`` that programs need and that hold no secrets.
"""

from __future__ import annotations

import os
import stat
from collections import deque
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from thunderagent_core.environments.base import ProviderError

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

USER_ID: Final = 1000
USER_NAME: Final = "agent"
HOME: Final = "/home/agent"

PROGRAMS: Final = ("usr", "bin", "sbin", "lib", "lib32", "lib64", "libx32")
"""Directories of the host with programs and libraries."""

_SHARED: Final = (
    *("alternatives", "ca-certificates", "crypto-policies", "fonts", "ld.so.cache", "perl"),
    *("pki/ca-trust", "pki/tls/certs", "ssl/certs", "ssl/openssl.cnf"),
)
"""Below ``/etc``, shown read-only where the host has them."""

_COPIED: Final = (
    *("bash.bashrc", "gai.conf", "host.conf", "inputrc", "localtime", "locale.alias", "login.defs", "mime.types"),
    *("nsswitch.conf", "os-release", "profile", "protocols", "services", "shells"),
)
"""Below ``/etc``, copied where the host has them."""

_OWN: Final = frozenset({"proc", "sys", "dev", "tmp", "run", "home", "root", "etc"})
"""What an image cannot provide where it is not under an overlay: a sandbox has its own, or none."""

_MAX_LINKS: Final = 40
_HOSTS: Final = "127.0.0.1 localhost\n::1 localhost ip6-localhost ip6-loopback\n"


@dataclass(frozen=True, slots=True)
class View:
    """What lies read-only in a root directory of the sandbox's own.

    Args:
        links: symbolic links, from path inside to what they hold.
        binds: from path inside to path on the host, or below the image where there is one.
    """

    links: dict[str, str]
    binds: dict[str, str]


def look_at_host(*, networked: bool) -> View:
    """Return what a sandbox without an image sees of this host."""
    view = _view(Path("/"), PROGRAMS)
    for name in (*_SHARED, *(["resolv.conf"] if networked else [])):
        if (Path("/etc") / name).exists():
            view.binds[f"/etc/{name}"] = f"/etc/{name}"
    return view


def look_at_image(image: Path) -> View:
    """Return what a sandbox sees of an image where no overlay can be made: all of it, read-only."""
    view = _view(image, _names(image, _OWN))
    if (image / "etc").is_dir():
        below = _view(image, [f"etc/{name}" for name in _names(image / "etc", {"passwd", "group"})])
        view.links.update(below.links)
        view.binds.update(below.binds)
    return view


def _names(directory: Path, without: Collection[str]) -> list[str]:
    return sorted({path.name for path in directory.iterdir()}.difference(without))


def _view(root: Path, names: Sequence[str]) -> View:
    view = View({}, {})
    for name in names:
        path = root / name
        if path.is_symlink():
            view.links[f"/{name}"] = str(path.readlink())
        elif path.exists():
            view.binds[f"/{name}"] = f"/{name}"
    return view


def write_own_files(upper: Path, image: Path | None, owner: int | None) -> None:
    """Give a new environment the files in ``/etc`` that name its user, and without an image some of the host's.

    Raises OSError where the disk refuses.
    """
    directory = upper / "etc"
    directory.mkdir(mode=0o755)
    source = image / "etc" if image is not None else None
    contents = {
        "passwd": _with_line(source, "passwd", f"{USER_NAME}:x:{USER_ID}:{USER_ID}::{HOME}:/bin/sh\n"),
        "group": _with_line(source, "group", f"{USER_NAME}:x:{USER_ID}:\n"),
    }
    if source is None:
        contents["hosts"] = _HOSTS.encode()
        for name in _COPIED:
            path = Path("/etc") / name
            if path.is_file():
                contents[name] = path.read_bytes()
    for name, content in contents.items():
        (directory / name).write_bytes(content)
    if owner is not None:
        for path in (directory, *directory.iterdir()):
            os.chown(path, owner, owner)


def _with_line(source: Path | None, name: str, line: str) -> bytes:
    """Return an image's list of users or groups with ours in it."""
    path = source / name if source is not None else None
    known = path.read_text(encoding="utf-8", errors="surrogateescape") if path is not None and path.is_file() else ""
    number = line.split(":")[2]
    if any(entry.split(":")[2:3] == [number] for entry in known.splitlines()):
        return known.encode("utf-8", "surrogateescape")
    separator = "\n" if known and not known.endswith("\n") else ""
    return (known + separator + line).encode("utf-8", "surrogateescape")


def resolve_inside(layers: Sequence[Path], path: str) -> str:
    """Return where a path inside leads, following links as a process inside would.

    Bubblewrap makes directories and mounts before the sandbox has its root, so a link that an agent has left at such a
    place would lead it astray, into the host.

    Args:
        layers: directories that lie over one another as the root, uppermost first.
        path: absolute.

    Raises:
        ProviderError: the links go round in circles.
    """
    steps = deque(path.split("/"))
    reached: list[str] = []
    links = 0
    while steps:
        step = steps.popleft()
        if step in {"", "."}:
            continue
        if step == "..":
            reached = reached[:-1]
            continue
        target = _link(layers, [*reached, step])
        if target is None:
            reached.append(step)
            continue
        links += 1
        if links > _MAX_LINKS:
            raise ProviderError(f"{path} leads through too many links", code="files_unusable", permanent=True)
        reached = [] if target.startswith("/") else reached
        steps.extendleft(reversed(target.split("/")))
    return "/" + "/".join(reached)


def _link(layers: Sequence[Path], parts: Sequence[str]) -> str | None:
    """Return what a link holds; None where there is none. No step of ``parts`` but the last is a link."""
    for layer in layers:
        path = layer.joinpath(*parts)
        try:
            mode = path.lstat().st_mode
        except (FileNotFoundError, NotADirectoryError):
            continue
        return str(path.readlink()) if stat.S_ISLNK(mode) else None
    return None
