"""Names of images: Docker takes many for the same."""

from __future__ import annotations

from typing import Final

_HOME: Final = "docker.io"
_OFFICIAL: Final = "library"
_LATEST: Final = "latest"


def image_name(reference: str) -> str:
    """Return the one name that ``busybox``, ``library/busybox`` and ``docker.io/library/busybox:latest`` have."""
    path, _, digest = reference.partition("@")
    host, _, rest = path.partition("/")
    if not rest or not ("." in host or ":" in host or host == "localhost"):
        host, rest = _HOME, path
    if host == _HOME and "/" not in rest:
        rest = f"{_OFFICIAL}/{rest}"
    if digest:
        return f"{host}/{rest}@{digest}"
    return f"{host}/{rest}" if ":" in rest.rpartition("/")[2] else f"{host}/{rest}:{_LATEST}"
