"""What a daemon's description of a container says."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from thunderagent_core.environments.base import Liveness, Sighting

if TYPE_CHECKING:
    from collections.abc import Mapping

_LIVENESS: Final = {
    "running": Liveness.ALIVE,
    "paused": Liveness.FROZEN,
    "created": Liveness.STOPPED,
    "exited": Liveness.STOPPED,
    "restarting": Liveness.STOPPED,
    "dead": Liveness.STOPPED,
}
"""By Docker's word for the state. ``removing`` is missing on purpose: its files may be there or not."""


def liveness_of(status: str) -> Liveness:
    """Return what Docker's word for a container's state means; UNKNOWN for one that is being removed."""
    return _LIVENESS.get(status, Liveness.UNKNOWN)


def status_of(container: Mapping[str, Any]) -> str:
    """Return Docker's word for the state."""
    return str(container["State"]["Status"])


def handle_of(container: Mapping[str, Any]) -> str:
    """Return the container's name without Docker's leading slash."""
    return str(container["Name"]).removeprefix("/")


def labels_of(container: Mapping[str, Any]) -> Mapping[str, str]:
    """Return the container's labels."""
    return container["Config"].get("Labels") or {}


def sighting_of(container: Mapping[str, Any], host: str) -> Sighting:
    """Return what there is to say; ``host`` is where published ports are reached."""
    return Sighting(liveness_of(status_of(container)), host, published_ports(container))


def published_ports(container: Mapping[str, Any]) -> dict[int, int]:
    """Return the host port of each TCP port; empty while it does not run.

    A daemon that was killed still tells of the ports of containers that died with it.
    """
    if liveness_of(status_of(container)) not in {Liveness.ALIVE, Liveness.FROZEN}:
        return {}
    ports: Mapping[str, list[Mapping[str, str]] | None] = container["NetworkSettings"].get("Ports") or {}
    return {
        int(inside.removesuffix("/tcp")): int(bindings[0]["HostPort"])
        for inside, bindings in ports.items()
        if inside.endswith("/tcp") and bindings
    }


def volumes_of(container: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Return its volumes: what is in them is in no snapshot."""
    return [mount for mount in container.get("Mounts") or () if mount.get("Type") == "volume"]


def own_directories(container: Mapping[str, Any]) -> list[Path]:
    """Return the daemon's directories with all that it has written: its layer and its volumes. Empty: not known."""
    layer = (container.get("GraphDriver", {}).get("Data") or {}).get("UpperDir")
    if not layer:
        return []
    return [Path(layer), *(Path(volume["Source"]) for volume in volumes_of(container) if volume.get("Source"))]


def layer_directories(image: Mapping[str, Any]) -> list[Path]:
    """Return the daemon's directories with an image's layers; empty where the storage driver does not say."""
    data = image.get("GraphDriver", {}).get("Data") or {}
    lower = data.get("LowerDir") or ""
    return [Path(part) for part in (data.get("UpperDir") or "", *lower.split(":")) if part]
