"""From a plan to the request that makes its container: no daemon, no clock, only what was decided."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from thunderagent_core.environments.base import Plan
    from thunderagent_core.environments.spec import EnvironmentSpec

_IDLE: Final = ("/bin/sh", "-c", "mkdir -p -m 1777 /tmp 2>/dev/null; exec sleep 2147483647")
"""What runs where no command was given. Under ``--init`` it is not process 1, so SIGTERM ends it at once."""
_CPU_PERIOD_US: Final = 100_000
_LEAST_QUOTA_US: Final = 1_000
_LOG_LIMITS: Final = {"Type": "json-file", "Config": {"max-size": "1m", "max-file": "2"}}
"""What the main program prints would otherwise fill the disk outside of every budget."""


def container_request(
    plan: Plan, *, image: str, labels: Mapping[str, str], volumes: Iterable[str], network: str, publish_at: str
) -> dict[str, Any]:
    """Return the body of ``POST /containers/create``.

    Args:
        plan: what to make.
        image: reference or id of the image.
        labels: for the container and its volumes.
        volumes: directories that the image declares to be volumes.
        network: name of the network of those that have one.
        publish_at: host address at which ports are published.
    """
    spec = plan.spec
    return {
        "Image": image,
        "Entrypoint": list(spec.command or _IDLE),
        "Cmd": [],
        "Env": [f"{name}={value}" for name, value in spec.env.items()],
        "WorkingDir": spec.workdir,
        "Labels": dict(labels),
        "ExposedPorts": {f"{port}/tcp": {} for port in spec.ports},
        "HostConfig": {
            **_limits(spec),
            "Init": True,
            "AutoRemove": False,
            "RestartPolicy": {"Name": "no"},
            "SecurityOpt": ["no-new-privileges:true"],
            "CapDrop": ["ALL"],
            "NetworkMode": network if spec.networked else "none",
            "PortBindings": _bindings(plan, publish_at),
            "Mounts": [*_mounts(spec), *_volumes(volumes, labels)],
            "LogConfig": _LOG_LIMITS,
        },
    }


def _limits(spec: EnvironmentSpec) -> dict[str, Any]:
    """Return the limits. A quota, unlike ``NanoCpus``, is not refused on a host with fewer processors."""
    return {
        "Memory": spec.memory_bytes,
        "MemorySwap": spec.memory_bytes,  # memory and swap together: no swap
        "CpuPeriod": _CPU_PERIOD_US,
        "CpuQuota": max(_LEAST_QUOTA_US, round(spec.cpus * _CPU_PERIOD_US)),
        "PidsLimit": spec.pids,
    }


def _bindings(plan: Plan, publish_at: str) -> dict[str, list[dict[str, str]]]:
    return {
        f"{port}/tcp": [{"HostIp": publish_at, "HostPort": str(plan.ports.get(port) or "")}] for port in plan.spec.ports
    }


def _mounts(spec: EnvironmentSpec) -> list[dict[str, Any]]:
    """Return the read-only mounts. What is mounted below a source stays out: it would not be read-only."""
    return [
        {
            "Type": "bind",
            "Source": mount.source,
            "Target": mount.target,
            "ReadOnly": True,
            "BindOptions": {"NonRecursive": True},
        }
        for mount in spec.mounts
    ]


def _volumes(targets: Iterable[str], labels: Mapping[str, str]) -> list[dict[str, Any]]:
    """Return anonymous volumes with our labels. Docker would make them anyway, but so that nobody can tell whose."""
    return [
        {"Type": "volume", "Target": target, "VolumeOptions": {"Labels": dict(labels)}} for target in sorted(targets)
    ]
