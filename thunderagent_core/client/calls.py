"""Each route of the server as a value: what to send, and how to read the answer. Nothing here does IO."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, Literal, TypeVar
from urllib.parse import quote

import msgspec

from thunderagent_core.client.errors import UnexpectedAnswerError
from thunderagent_core.client.views import BackendList, BackendView, ProgramList, ProgramView, Released

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

T = TypeVar("T")

_GENERATING = frozenset(("/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/messages"))
"""What generates and nothing else, unless it is told to store the answer."""

ProgramEvent = Literal["tool_started", "tool_finished", "idle", "interrupted", "resumed"]


@dataclass(frozen=True, slots=True)
class Call(Generic[T]):
    """One request to the server.

    Args:
        method: HTTP method.
        path: percent-encoded.
        decode: reads the body of a successful answer.
        body: JSON, if any.
        repeatable: sending it again does no harm, even if the server has seen it.
        generation: the answer may take as long as the model, and the queue before it.
        once: a failure is an answer too, so there is no second attempt.
        endless: the answer is a stream that may be silent for any time.
        slow: the answer may take as long as a command in an environment.
        content_type: of the body.
    """

    method: str
    path: str
    decode: Callable[[bytes], T]
    body: bytes | None = None
    repeatable: bool = True
    generation: bool = False
    once: bool = False
    endless: bool = False
    slow: bool = False
    content_type: str = "application/json"


def register(
    program_id: str,
    parent_id: str | None,
    group: str | None,
    priority: int,
    environments: Sequence[Mapping[str, Any]] = (),
) -> Call[ProgramView]:
    """POST /programs."""
    body: dict[str, Any] = {"program_id": program_id, "parent_id": parent_id, "group": group, "priority": priority}
    if environments:
        body["environments"] = [dict(spec) for spec in environments]
    return Call("POST", "/programs", into(ProgramView), json_body(body))


def list_programs() -> Call[ProgramList]:
    """GET /programs."""
    return Call("GET", "/programs", into(ProgramList))


def get_program(program_id: str) -> Call[ProgramView]:
    """GET /programs/{id}."""
    return Call("GET", f"/programs/{segment(program_id)}", into(ProgramView))


def release(program_id: str) -> Call[bool]:
    """POST /programs/release."""
    return Call(
        "POST", "/programs/release", lambda body: into(Released)(body).released, json_body({"program_id": program_id})
    )


def report(program_id: str, event: ProgramEvent, tool: str | None = None) -> Call[ProgramView]:
    """POST /programs/{id}/events."""
    body = {"type": event} if tool is None else {"type": event, "tool": tool}
    return Call("POST", f"/programs/{segment(program_id)}/events", into(ProgramView), json_body(body))


def list_backends() -> Call[tuple[BackendView, ...]]:
    """GET /backends."""
    return Call("GET", "/backends", lambda body: into(BackendList)(body).backends)


def add_backend(url: str) -> Call[BackendView]:
    """POST /backends. Not repeated: a retry could add a backend that somebody has drained meanwhile."""
    return Call("POST", "/backends", into(BackendView), json_body({"url": url}), repeatable=False)


def drain_backend(backend_id: str) -> Call[None]:
    """DELETE /backends/{id}. Not repeatable: it may be gone by then."""
    return Call("DELETE", f"/backends/{segment(backend_id)}", lambda _: None, repeatable=False)


def probe(path: Literal["/health", "/ready"]) -> Call[None]:
    """GET /health or /ready, of which only the status matters."""
    return Call("GET", path, lambda _: None, once=True)


def generate(path: str, program_id: str | None, params: Mapping[str, Any], *, stream: bool) -> Call[dict[str, Any]]:
    """POST a generation; parameters that are None are left out.

    A plain generation counts as repeatable: it changes nothing but the engine's cache, and the server drops a request
    whose client has gone. A response to ``store`` or to make in the ``background`` does not, nor does what another
    route does.
    """
    body = {name: value for name, value in params.items() if value is not None}
    if stream:
        body["stream"] = True
    if program_id is not None:
        body["program_id"] = program_id
    route = path.partition("?")[0]
    stored = route == "/v1/responses" and bool(body.get("store") or body.get("background"))
    repeatable = route in _GENERATING and not stored
    return Call("POST", path, json_object, json_body(body), repeatable=repeatable, generation=True)


def events() -> Call[dict[str, Any]]:
    """GET /events, a stream without an end."""
    return Call("GET", "/events", json_object, endless=True)


def json_object(body: bytes) -> dict[str, Any]:
    """Read a JSON object. Raises UnexpectedAnswerError."""
    return into(dict[str, Any])(body)


def into(kind: type[T]) -> Callable[[bytes], T]:
    """Return what reads a body as ``kind``. It raises UnexpectedAnswerError."""

    def decode(body: bytes) -> T:
        try:
            return msgspec.json.decode(body, type=kind)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise UnexpectedAnswerError(f"the server's answer makes no sense here: {error}") from error

    return decode


def json_body(content: object) -> bytes:
    """Return a value as JSON."""
    return msgspec.json.encode(content)


def segment(name: str) -> str:
    """Encode one segment of a path; a segment of dots alone would be taken for a step in the path."""
    encoded = quote(name, safe="")
    return encoded.replace(".", "%2E") if encoded.strip(".") == "" else encoded
