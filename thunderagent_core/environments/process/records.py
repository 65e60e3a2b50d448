"""What is written down of an environment and of a snapshot, beside its files."""

from __future__ import annotations

from enum import StrEnum

import msgspec

from thunderagent_core.environments.process.identity import Identity  # noqa: TC001 - read when JSON is decoded
from thunderagent_core.environments.spec import EnvironmentSpec  # noqa: TC001


class Layer(StrEnum):
    """How the files of an environment come about."""

    BINDS = "binds"
    """A directory of its own, in which directories of the host or the image are seen read-only."""
    OVERLAY = "overlay"
    """Its own changes lie over the image, all of which it may change."""


class Record(msgspec.Struct, frozen=True, kw_only=True):
    """An environment. It is written before anything of it is made, so whatever exists has one.

    Args:
        handle: its name.
        labels: whose it is.
        spec: what was asked for.
        ports: host port for each port inside.
        snapshot: what its files come from, if any.
        layer: how its files come about.
        filled: its files are all there.
        launching: a sandbox may be starting, or may have started, that ``init`` does not know of.
        monitor: bubblewrap's process outside.
        init: the first process inside; with it, all others end.
    """

    handle: str
    labels: dict[str, str]
    spec: EnvironmentSpec
    ports: dict[int, int] = {}
    snapshot: str | None = None
    layer: Layer = Layer.BINDS
    filled: bool = False
    launching: bool = False
    monitor: Identity | None = None
    init: Identity | None = None


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """A snapshot.

    Args:
        labels: whose it is.
        layer: how its files are to be used.
        image: what they lie over.
        archive: name of the file that holds them; None: it is unfinished.
        size_bytes: length of that file.
        sha256: its digest, in hexadecimal.
    """

    labels: dict[str, str]
    layer: Layer
    image: str | None = None
    archive: str | None = None
    size_bytes: int = 0
    sha256: str = ""
