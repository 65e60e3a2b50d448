"""Bodies of our own routes: unknown fields and wrong types are answered, never guessed at."""

from __future__ import annotations

import difflib
from functools import cache
from typing import Annotated, Any, TypeVar, cast

import msgspec

from thunderagent_core.environments.spec import EnvironmentSpec, SpecError, read_specs
from thunderagent_core.scheduling import events as ev
from thunderagent_core.server.errors import ApiError, invalid, spec_error
from thunderagent_core.server.wire import check_program_id, decode_object

T = TypeVar("T")

Priority = Annotated[int, msgspec.Meta(ge=-(2**31), le=2**31 - 1)]
"""What engines take as a priority as well."""

_MAX_URL_CHARS = 2048

_SHOWN_CHARS = 100
"""Of an unknown field's name in the answer: a client that sends megabytes does not get them back."""


class RegisterBody(msgspec.Struct, forbid_unknown_fields=True):
    """``POST /programs``."""

    program_id: str
    parent_id: str | None = None
    group: str | None = None
    priority: Priority = 0
    environments: list[Any] = []


class ReleaseBody(msgspec.Struct, forbid_unknown_fields=True):
    """``POST /programs/release``."""

    program_id: str


class EventBody(msgspec.Struct, forbid_unknown_fields=True):
    """``POST /programs/{id}/events``."""

    type: str
    tool: str | None = None


class BackendBody(msgspec.Struct, forbid_unknown_fields=True):
    """``POST /backends``."""

    url: Annotated[str, msgspec.Meta(max_length=_MAX_URL_CHARS)]


def read_body(body: bytes, kind: type[T]) -> T:
    """Return the body as ``kind``. Raises ApiError: 400 for wrong JSON or types, 422 for an unknown field."""
    content = decode_object(body)
    fields = _fields(kind)  # type: ignore[arg-type]
    for name in content:
        if name not in fields:
            raise _unknown_field(name, set(fields))
    for name, required in fields.items():
        if required and name not in content:
            raise invalid(f"`{name}` is required.", name, "missing_required_parameter")
    try:
        return msgspec.convert(content, kind)
    except msgspec.ValidationError as error:
        text, _, path = str(error).partition(" - at `")
        param = path.removeprefix("key` in `").removeprefix("$").removeprefix(".").rstrip("`")
        raise invalid(f"`{param}`: {text}.", param or None) from error


@cache
def _fields(kind: type) -> dict[str, bool]:
    """Return the fields of a body, and whether each is required. Found out once: it takes longer than all the rest."""
    return {field.encode_name: field.required for field in msgspec.structs.fields(kind)}


def read_event(program_id: str, body: bytes) -> ev.Event:
    """Return the fact that an adapter reports. Raises ApiError (400, 422)."""
    content = read_body(body, EventBody)
    plain: dict[str, Any] = {
        "idle": ev.ProgramIdled,
        "interrupted": ev.ProgramInterrupted,
        "resumed": ev.ProgramResumed,
    }
    tools: dict[str, Any] = {"tool_started": ev.ToolStarted, "tool_finished": ev.ToolEnded}
    if content.type in plain:
        return cast("ev.Event", plain[content.type](program_id))
    if content.type not in tools:
        raise invalid(f"`type` must be one of {', '.join([*tools, *plain])}.", "type")
    if not content.tool:
        raise invalid("`tool` must name the tool.", "tool", "missing_required_parameter")
    check_program_id(content.tool, "tool")
    return cast("ev.Event", tools[content.type](program_id, content.tool))


def read_registration(body: bytes) -> tuple[ev.ProgramRegistered, tuple[EnvironmentSpec, ...]]:
    """Return the registration in a body and the environments that it declares. Raises ApiError (400, 422)."""
    content = read_body(body, RegisterBody)
    for name in ("parent_id", "group"):
        if getattr(content, name) is not None:
            check_program_id(getattr(content, name), name)
    check_program_id(content.program_id)
    try:
        specs = read_specs(content.environments)
    except SpecError as error:
        raise spec_error(error) from error
    return ev.ProgramRegistered(content.program_id, content.parent_id, content.group, content.priority), specs


def _unknown_field(name: str, fields: set[str]) -> ApiError:
    shown = name if len(name) <= _SHOWN_CHARS else name[:_SHOWN_CHARS] + "…"
    near = difflib.get_close_matches(shown, sorted(fields), n=1, cutoff=0.0)
    message = f"Unknown field `{shown}`; did you mean `{near[0]}`?"
    return ApiError(422, message, code="unknown_field", param=shown, permanent=True)
