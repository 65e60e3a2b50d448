"""The server on a real Docker engine is killed around every kind of commit, effect and command."""

from __future__ import annotations

import re
import time
from typing import TYPE_CHECKING

import pytest
from docker_testbed import Engine
from kills import Forge, Kill, Trial, try_all

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

DURING = ("create", "destroy", "snapshot", "drop_snapshot")


def one_of_each(kills: Sequence[Kill]) -> list[Kill]:
    """Return the first of each kind of point, the last commit of each kind as well, and the long effects amid."""
    chosen: dict[str, Kill] = {}
    for kill in kills:
        moment, kind = re.fullmatch(r"(\w+) (.*) #\d+", kill.point).groups()  # type: ignore[union-attr]
        if moment != "during" or kind in DURING:
            chosen.setdefault(f"{moment} {kind}", kill)
            if kind.startswith("commit change"):
                chosen[f"{moment} last {kind}"] = kill
    return list(chosen.values())


@pytest.mark.real_docker
def test_killed_around_everything(
    docker_url: str, docker_image: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    engine = Engine(docker_url)
    common = {"image": docker_image, "setup": ["echo made > made"], "memory_bytes": 64 << 20}
    specs = {
        "shell": {"name": "shell", **common, "on_reclaim": {"command": "echo bye"}},
        "other": {"name": "other", **common, "ports": [8000]},
        "spare": {"name": "spare", **common},
    }

    def remains(_: Path, installation: str) -> list[str]:
        return [f"{kind} {name}" for kind, name in engine.leftovers(installation)]

    arguments = ["--environments", "docker", "--docker-host", docker_url, "--environment-freeze-after-s", "0"]
    arguments += ["--environment-max-creations", "1", "--environment-disk-floor-bytes", "0"]
    began = time.monotonic()
    with Forge() as forge:
        trial = Trial(forge=forge, folder=tmp_path, specs=specs, arguments=arguments, remains=remains)
        kills = one_of_each(trial.count())
        tried = try_all(trial, kills)
    with capsys.disabled():
        took_s = time.monotonic() - began
        print(f"\nDocker: server killed at {tried} points in {took_s:.0f} s; nothing leaked, nothing lost")
    assert tried == len(kills) > 30
