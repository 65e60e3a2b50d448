"""The routes of tool environments as values: what to send, and how to read the answer."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlencode

from thunderagent_core.client.calls import Call, into, json_body, json_object, segment
from thunderagent_core.client.environment_views import EnvironmentList, EnvironmentView, ExecResult, Reaped, ReapItem

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """What to run, and how: the arguments of ``Environment.exec``."""

    command: str | Sequence[str]
    workdir: str | None = None
    env: Mapping[str, str] = field(default_factory=dict)
    timeout_s: float | None = None
    wait_s: float = 300.0
    output_limit_bytes: int | None = None

    def body(self) -> dict[str, Any]:
        """Return it as JSON; what was not said is left to the server."""
        command = self.command if isinstance(self.command, str) else list(self.command)
        content = {
            "command": command,
            "workdir": self.workdir,
            "env": dict(self.env) or None,
            "timeout_s": self.timeout_s,
            "wait_s": self.wait_s,
            "output_limit_bytes": self.output_limit_bytes,
            "encoding": "base64",
        }
        return {name: value for name, value in content.items() if value is not None}


def list_all() -> Call[tuple[EnvironmentView, ...]]:
    """GET /environments."""
    return Call("GET", "/environments", lambda body: into(EnvironmentList)(body).environments)


def list_of(program_id: str) -> Call[tuple[EnvironmentView, ...]]:
    """GET /programs/{id}/environments."""
    return Call("GET", _path(program_id), lambda body: into(EnvironmentList)(body).environments)


def reap(*, dry_run: bool) -> Call[tuple[ReapItem, ...]]:
    """POST /environments/reap."""
    body = json_body({"dry_run": dry_run})
    return Call("POST", "/environments/reap", lambda answer: into(Reaped)(answer).items, body, slow=True)


def declare(program_id: str, spec: Mapping[str, Any]) -> Call[EnvironmentView]:
    """POST /programs/{id}/environments."""
    return Call("POST", _path(program_id), into(EnvironmentView), json_body(dict(spec)))


def look(program_id: str, name: str, *, wait_s: float = 0.0) -> Call[EnvironmentView]:
    """GET …/environments/{name}; with ``wait_s`` it is made where needed, and waited for."""
    query = f"?wait_s={wait_s:g}" if wait_s else ""
    return Call("GET", _path(program_id, name) + query, into(EnvironmentView), slow=wait_s > 0)


def delete(program_id: str, name: str) -> Call[None]:
    """DELETE …/environments/{name}. Not repeatable: its name may have been given to another one since."""
    return Call("DELETE", _path(program_id, name), lambda _: None, repeatable=False)


def snapshot(program_id: str, name: str) -> Call[EnvironmentView]:
    """POST …/snapshot."""
    return Call("POST", f"{_path(program_id, name)}/snapshot", into(EnvironmentView), b"{}", slow=True)


def run(program_id: str, name: str, command: Command) -> Call[ExecResult]:
    """POST …/exec. Never sent twice: the command may have run."""
    body = json_body(command.body())
    path = f"{_path(program_id, name)}/exec"
    return Call("POST", path, into(ExecResult), body, repeatable=False, slow=True)


def stream(program_id: str, name: str, command: Command) -> Call[dict[str, Any]]:
    """POST …/exec with ``stream``: a stream of events."""
    body = json_body({**command.body(), "stream": True})
    path = f"{_path(program_id, name)}/exec"
    return Call("POST", path, json_object, body, repeatable=False, slow=True)


def upload(program_id: str, name: str, path: str, data: bytes, mode: int) -> Call[None]:
    """PUT …/files."""
    query = urlencode({"path": path, "mode": f"{mode:o}"}, quote_via=quote)
    route = f"{_path(program_id, name)}/files?{query}"
    return Call("PUT", route, lambda _: None, data, slow=True, content_type="application/octet-stream")


def download(program_id: str, name: str, path: str) -> Call[bytes]:
    """GET …/files."""
    query = urlencode({"path": path}, quote_via=quote)
    return Call("GET", f"{_path(program_id, name)}/files?{query}", lambda body: body, slow=True)


def _path(program_id: str, name: str | None = None) -> str:
    path = f"/programs/{segment(program_id)}/environments"
    return path if name is None else f"{path}/{segment(name)}"
