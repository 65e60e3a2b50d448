"""What the API shows of tool environments, of what commands in them did, and of what is taken back."""

from __future__ import annotations

import base64
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from thunderagent_core.environments.states import State

if TYPE_CHECKING:
    from thunderagent_core.environments.exec import ExecResult, Output
    from thunderagent_core.environments.manager.views import EnvironmentView, ReapItem

Encoding = Literal["utf-8", "base64"]


def environment_view(view: EnvironmentView, now: float) -> dict[str, Any]:
    """Return an environment as JSON; sizes in bytes, ages in seconds. ``now``: seconds since 1970."""
    lost = view.state is State.LOST
    return {
        "id": view.id,
        "program_id": view.program_id,
        "name": view.name,
        "provider": view.provider,
        "endpoint": view.endpoint,
        "state": view.state,
        "code": "environment_lost" if lost and view.code is None else view.code,
        "reason": view.reason,
        "host": view.host or None,
        "ports": {str(inside): outside for inside, outside in view.ports.items()},
        "position": view.position,
        "disk_reserved_bytes": view.disk_reserved,
        "disk_used_bytes": view.disk_used,
        "snapshot": view.snapshot,
        "age_s": round(now - view.created_at, 3),
        "state_s": round(now - view.changed_at, 3),
        "start_s": None if view.ready_at is None else round(view.ready_at - view.created_at, 3),
        "spec": msgspec.to_builtins(view.spec),
    }


def reap_view(item: ReapItem) -> dict[str, Any]:
    """Return something that is taken back as JSON."""
    return asdict(item)


def result_view(result: ExecResult, encoding: Encoding) -> dict[str, Any]:
    """Return how a command ended as JSON, its output included."""
    return {
        **ending_view(result),
        "stdout": _text(result.stdout, encoding),
        "stderr": _text(result.stderr, encoding),
        "encoding": encoding,
    }


def ending_view(result: ExecResult) -> dict[str, Any]:
    """Return how a command ended as JSON, without its output."""
    return {
        "exit_code": result.exit_code,
        "timed_out": result.timed_out,
        "dropped_stdout_bytes": result.dropped_stdout,
        "dropped_stderr_bytes": result.dropped_stderr,
        "duration_s": round(result.duration_s, 6),
    }


def output_event(output: Output) -> bytes:
    """Return a piece of output as a server-sent event. Pieces may end amid a character, so bytes travel as base64."""
    data = msgspec.json.encode({"stream": output.stream, "data": base64.b64encode(output.data).decode()})
    return b"event: output\ndata: " + data + b"\n\n"


def ending_event(result: ExecResult) -> bytes:
    """Return the end of a command as a server-sent event."""
    return b"event: exit\ndata: " + msgspec.json.encode(ending_view(result)) + b"\n\n"


def _text(data: bytes, encoding: Encoding) -> str:
    return base64.b64encode(data).decode() if encoding == "base64" else data.decode(errors="replace")
