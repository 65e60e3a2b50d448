"""``EnvironmentsConfig``: the settings of tool environments."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from thunderagent_core.config.declaring import ENVIRONMENTS, SECONDS, SECONDS_OR_NONE, setting
from thunderagent_core.config.places import DockerHost, Folder, PortRange, ReadableFile
from thunderagent_core.config.rules import Choice, Optional, Several, Whole

if TYPE_CHECKING:
    from pathlib import Path

KINDS: Final = ("off", "auto", "docker", "process")


@dataclass(frozen=True, slots=True, kw_only=True)
class EnvironmentsConfig:
    """What an operator may set about tool environments; part of ``ServerConfig``."""

    environments: str = setting(
        "off",
        Choice(KINDS),
        "Tool environments: off, auto (Docker where it answers, else bubblewrap), docker or process.",
        panel=ENVIRONMENTS,
    )
    state_dir: Path | None = setting(  # noqa: RUF009 - it declares a field, as its neighbours do
        None,
        Optional(Folder()),
        "Directory of their ledger and files, for one server at a time; none: ~/.local/state/thunderagent.",
        panel=ENVIRONMENTS,
    )
    docker_hosts: tuple[str, ...] = setting(
        (),
        Several(DockerHost()),
        "Docker daemon as unix:///path or tcp://host:port; none: the one of this machine.",
        panel=ENVIRONMENTS,
        flag="--docker-host",
    )
    environment_mount_roots: tuple[Path, ...] = setting(
        (),
        Several(Folder(exists=True)),
        "Directory below which programs may have files of this machine mounted, read-only.",
        panel=ENVIRONMENTS,
        flag="--environment-mount-root",
    )
    warm_pools: Path | None = setting(  # noqa: RUF009 - it declares a field, as its neighbours do
        None,
        Optional(ReadableFile()),
        "JSON file with environments to keep ready: a list of {size, spec}.",
        panel=ENVIRONMENTS,
    )
    environment_max_creations: int | None = setting(
        None,
        Optional(Whole(1)),
        "Environments being made at once; none: as many as processors, from 2 to 8.",
        panel=ENVIRONMENTS,
    )
    environment_creation_timeout_s: float = setting(
        300.0, SECONDS, "Longest time in seconds that making one may take, set-up included.", panel=ENVIRONMENTS
    )
    environment_freeze_after_s: float = setting(
        2.0, SECONDS_OR_NONE, "Seconds after its program was paused until one is frozen.", panel=ENVIRONMENTS
    )
    environment_disk_budget_bytes: int | None = setting(
        None, Optional(Whole(1)), "Disk for all of them together, in bytes; none: no limit.", panel=ENVIRONMENTS
    )
    environment_disk_floor_bytes: int = setting(
        1 << 30, Whole(0), "Free disk in bytes that they leave where they are stored.", panel=ENVIRONMENTS
    )
    environment_image_high_bytes: int | None = setting(
        None,
        Optional(Whole(0)),
        "Images that this server brought are removed, least recently used first, above so many bytes; none: never.",
        panel=ENVIRONMENTS,
    )
    environment_image_low_bytes: int | None = setting(
        None,
        Optional(Whole(0)),
        "Until so many bytes of them are left; none, or more: environment_image_high_bytes.",
        panel=ENVIRONMENTS,
    )
    environment_ports: str | None = setting(
        None,
        Optional(PortRange()),
        "Host ports for ports inside, first and last; none: any that are free.",
        panel=ENVIRONMENTS,
    )
    environment_quarantine_grace_s: float = setting(
        600.0,
        SECONDS_OR_NONE,
        "Seconds for which something is kept that carries our label and stands in no record.",
        panel=ENVIRONMENTS,
    )
    environment_reconcile_interval_s: float = setting(
        30.0, SECONDS, "Seconds between comparisons of the ledger with what there is.", panel=ENVIRONMENTS
    )
