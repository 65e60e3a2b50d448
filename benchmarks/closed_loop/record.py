"""What a session leaves behind: one JSON file with every run and what it takes to repeat it."""

from __future__ import annotations

import json
import math
import os
import platform
import shlex
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from importlib import metadata
from typing import TYPE_CHECKING, Any

from benchmarks.closed_loop.figures import Run, rows
from benchmarks.load.arms import ROUTERS
from thunderagent_core import __version__

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from benchmarks.closed_loop.running import Ground
    from thunderagent_core.demo.workload import Workload


class NoRecordError(Exception):
    """A file holds no results of this benchmark."""


@dataclass(slots=True)
class Record:
    """A session so far: how it came about, and its runs."""

    about: dict[str, Any]
    runs: list[Run] = field(default_factory=list)


def about(arguments: Sequence[str], workload: Workload, seeds: Sequence[int], ground: Ground) -> dict[str, Any]:
    """Return how a session comes about."""
    calibration = None if ground.calibration is None else asdict(ground.calibration)
    return {
        "command": shlex.join(["python", "-m", "benchmarks.agents", *arguments]),
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": {
            "thunderagent": __version__,
            "engine": ground.engine.version,
            "python": platform.python_version(),
            "uvloop": metadata.version("uvloop"),
            "routers": list(ROUTERS),
        },
        "machine": {"system": platform.platform(), "cores": os.cpu_count(), "load": os.getloadavg()[0]},
        "engine": asdict(ground.engine),
        "calibration": calibration,
        "workload": asdict(workload),
        "seeds": list(seeds),
    }


def save(record: Record, path: Path) -> None:
    """Write the record; it appears whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    content = {
        **record.about,
        "summary": [asdict(row) for row in rows(record.runs)],
        "runs": [asdict(run) for run in record.runs],
    }
    unfinished = path.with_name(f"{path.name}.partial")
    unfinished.write_text(json.dumps(_finite(content), indent=1, allow_nan=False) + "\n", encoding="utf-8")
    unfinished.replace(path)


def load(path: Path) -> Record:
    """Read a record. Raises NoRecordError where the file holds none."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        runs = [Run(**{**run, "errors": tuple(run["errors"])}) for run in content.pop("runs")]
        content.pop("summary")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise NoRecordError(f"{path} holds no results of this benchmark: {error}") from error
    return Record(content, runs)


def _finite(value: Any) -> Any:
    """Replace NaN, which JSON does not know, by None."""
    if isinstance(value, dict):
        return {key: _finite(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(inner) for inner in value]
    return None if isinstance(value, float) and math.isnan(value) else value
