"""API JSON to small types, without IO: who asks, for how much, and what the engine is to be sent."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

import msgspec

from thunderagent_core.environments.spec import SpecError, read_specs
from thunderagent_core.server.errors import invalid, spec_error
from thunderagent_core.server.prompt import measure_prompt

if TYPE_CHECKING:
    from thunderagent_core.environments.spec import EnvironmentSpec
    from thunderagent_core.transport.messages import Headers

MAX_PROGRAM_ID_CHARS = 256

MAX_MODEL_CHARS = 512
"""Names that clients choose are kept for long, so none may be large."""


class Dialect(Enum):
    """The four APIs that are scheduled."""

    CHAT = "chat"
    COMPLETIONS = "completions"
    RESPONSES = "responses"
    MESSAGES = "messages"

    @property
    def field(self) -> str:
        """The body's field that holds the prompt."""
        match self:
            case Dialect.COMPLETIONS:
                return "prompt"
            case Dialect.RESPONSES:
                return "input"
            case _:
                return "messages"


SCHEDULED_PATHS = {
    "/v1/chat/completions": Dialect.CHAT,
    "/v1/completions": Dialect.COMPLETIONS,
    "/v1/responses": Dialect.RESPONSES,
    "/v1/messages": Dialect.MESSAGES,
}


_SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
_MODELS_PATH = "/v1/models/"


@dataclass(slots=True)
class Call:
    """One request as the scheduler and the engine need it.

    Args:
        dialect: which API; None: one that is not scheduled but passed through as it is.
        program_id: who asks; None: untracked.
        model: the model asked for, where said.
        prompt_chars: characters of prompt text.
        prompt_tokens: exact prompt tokens, where the prompt is token ids.
        stream: the answer is a stream of events.
        hide_usage: usage was asked for by us, not by the client.
        repeatable: sending it again does no harm.
        body: what the engine is sent.
        environments: tool environments that the program declares with it.
    """

    dialect: Dialect | None
    program_id: str | None
    model: str | None
    prompt_chars: int
    prompt_tokens: int | None
    stream: bool
    hide_usage: bool
    repeatable: bool
    body: bytes
    environments: tuple[EnvironmentSpec, ...] = ()


class _Named(msgspec.Struct):
    """The one field of a passed-through body that says where it can be served."""

    model: str | None = None


def passed_call(method: str, path: str, body: bytes) -> Call:
    """Return a request that is passed through: untracked, to an engine that serves its model where it names one.

    Raises ApiError (400) for a path that steps about, and for a model's name that is too long.
    """
    _check_path(path)
    model = unquote(path[len(_MODELS_PATH) :]) or None if path.startswith(_MODELS_PATH) else None
    if body.startswith(b"{"):
        with contextlib.suppress(msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            model = msgspec.json.decode(body, type=_Named).model
    _check_model(model)
    return Call(
        dialect=None,
        program_id=None,
        model=model,
        prompt_chars=0,
        prompt_tokens=None,
        stream=False,
        hide_usage=False,
        repeatable=method in _SAFE_METHODS,
        body=body,
    )


def parse_call(dialect: Dialect, headers: Headers, body: bytes) -> Call:
    """Read one scheduled request. Raises ApiError (400) naming the field at fault."""
    content = decode_object(body)
    environments, declared = _take_environments(content)
    program_id, changed = _take_identity(content, headers)
    if environments and program_id is None:
        message = "`environments` belong to a program: give `program_id` as well."
        raise invalid(message, "program_id", "missing_required_parameter")
    if program_id is not None and content.pop("session_id", None) is not None:
        changed = True  # vLLM would take it before the header in which it is given the program's id
    model = _check_model(content.get("model"))
    stream = content.get("stream")
    if stream is not None and not isinstance(stream, bool):
        raise invalid("`stream` must be true or false.", "stream")
    stream = bool(stream)
    prompt_chars, prompt_tokens = measure_prompt(content, dialect.field)
    hide_usage = stream and dialect in {Dialect.CHAT, Dialect.COMPLETIONS} and _ask_for_usage(content)
    stored = dialect is Dialect.RESPONSES and bool(content.get("store") or content.get("background"))
    return Call(
        dialect=dialect,
        program_id=program_id,
        model=model,
        prompt_chars=prompt_chars,
        prompt_tokens=prompt_tokens,
        stream=stream,
        hide_usage=hide_usage,
        repeatable=not stored,
        body=msgspec.json.encode(content) if changed or declared or hide_usage else body,
        environments=environments,
    )


def decode_object(body: bytes) -> dict[str, Any]:
    """Return a body that must be a JSON object. Raises ApiError (400)."""
    try:
        content = msgspec.json.decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise invalid(f"The body is not valid JSON: {error}", None, "invalid_json") from error
    except RecursionError:
        raise invalid("The body is nested too deeply.", None, "invalid_json") from None
    if not isinstance(content, dict):
        raise invalid("The body must be a JSON object.", None, "invalid_json")
    return content


def _check_model(model: Any) -> str | None:
    if model is not None and not isinstance(model, str):
        raise invalid("`model` must be a string.", "model")
    if model is not None and len(model) > MAX_MODEL_CHARS:
        raise invalid(f"`model` must have at most {MAX_MODEL_CHARS} characters.", "model")
    return model


def _check_path(path: str) -> None:
    """Refuse steps such as ``/v1/../x``: an engine, or a proxy before it, might follow them out of ``/v1``."""
    if not {".", ".."}.isdisjoint(unquote(path).replace("\\", "/").split("/")):
        raise invalid("The path must not have segments of dots alone.", None, "bad_request")


def check_program_id(value: Any, param: str = "program_id") -> str:
    """Return a well-formed program id, or another name with the same limits. Raises ApiError (400)."""
    if not isinstance(value, str):
        raise invalid(f"`{param}` must be a string.", param)
    if not value or len(value) > MAX_PROGRAM_ID_CHARS or not (value.isprintable() or _printable(value)):
        limit = f"1 to {MAX_PROGRAM_ID_CHARS} characters, none of them a control character"
        raise invalid(f"`{param}` must have {limit}.", param)
    return value


def _printable(value: str) -> bool:
    """``str.isprintable`` also refuses exotic spaces, which harm nobody; only controls and surrogates do."""
    return not any(c < " " or "\x7f" <= c <= "\x9f" or "\ud800" <= c <= "\udfff" for c in value)


def _take_identity(content: dict[str, Any], headers: Headers) -> tuple[str | None, bool]:
    """Return the program id and whether the body had to be changed to strip it. First match wins."""
    found: list[Any] = []
    for name, holder in (("extra_body", "extra_body"), ("vllm_xargs", "agentic_context")):
        if isinstance(content.get(name), dict):
            found += _take_nested(content, name, holder)
    if "program_id" in content:
        found.insert(0, content.pop("program_id"))
    if found:
        return check_program_id(found[0]), True
    by_session = None
    for field, value in headers:
        if field == b"x-program-id":
            return check_program_id(_text(value), "X-Program-ID"), False
        if field == b"x-session-id" and by_session is None:
            by_session = value
    return (None if by_session is None else check_program_id(_text(by_session), "X-Session-ID")), False


def _take_environments(content: dict[str, Any]) -> tuple[tuple[EnvironmentSpec, ...], bool]:
    """Return the declared tool environments and whether the body had to be changed to strip them."""
    outer = content.get("extra_body")
    holder = content if "environments" in content else outer
    if not isinstance(holder, dict) or "environments" not in holder:
        return (), False
    try:
        specs = read_specs(holder.pop("environments"))
    except SpecError as error:
        raise spec_error(error) from error
    if holder is outer and not holder:
        del content["extra_body"]
    return specs, True


def _take_nested(content: dict[str, Any], name: str, holder: str) -> list[Any]:
    """Strip ``program_id`` from a nested object, and the objects that this leaves empty."""
    outer = content[name]
    inner = outer if holder == name else outer.get(holder)
    if not isinstance(inner, dict) or "program_id" not in inner:
        return []
    found = [inner.pop("program_id")]
    if not inner and inner is not outer:
        del outer[holder]
    if not outer:
        del content[name]
    return found


def _text(value: bytes) -> str:
    try:
        return value.decode()
    except UnicodeDecodeError:
        return value.decode("latin-1")


def _ask_for_usage(content: dict[str, Any]) -> bool:
    """Ask the engine for usage in the stream; False where the client did so itself."""
    options = content.get("stream_options")
    if options is None:
        options = {}
    if not isinstance(options, dict):
        raise invalid("`stream_options` must be an object.", "stream_options")
    if options.get("include_usage"):
        return False
    # An engine ignores the wish for usage in every chunk where `include_usage` is not set; ours must not grant it.
    kept = {name: value for name, value in options.items() if name != "continuous_usage_stats"}
    content["stream_options"] = {**kept, "include_usage": True}
    return True
