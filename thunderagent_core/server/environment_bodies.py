"""Bodies of the routes of tool environments."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from thunderagent_core.environments.commands import DEFAULT_OUTPUT_BYTES
from thunderagent_core.environments.exec import MAX_OUTPUT_BYTES, MAX_TIMEOUT_S

Variable = Annotated[str, msgspec.Meta(pattern="^[A-Za-z_][A-Za-z0-9_]*$")]


class ExecBody(msgspec.Struct, forbid_unknown_fields=True):
    """``POST …/exec``: see ``ExecRequest``. ``wait_s``: for how long it may wait for its environment."""

    command: str | list[str]
    workdir: str | None = None
    env: dict[Variable, str] = {}
    timeout_s: Annotated[float, msgspec.Meta(gt=0, le=MAX_TIMEOUT_S)] | None = None
    wait_s: Annotated[float, msgspec.Meta(gt=0, le=3600)] = 300.0
    output_limit_bytes: Annotated[int, msgspec.Meta(ge=0, le=MAX_OUTPUT_BYTES)] = DEFAULT_OUTPUT_BYTES
    stream: bool = False
    encoding: Literal["utf-8", "base64"] = "utf-8"


class ReapBody(msgspec.Struct, forbid_unknown_fields=True):
    """``POST /environments/reap``: ``dry_run`` only tells."""

    dry_run: bool = False
