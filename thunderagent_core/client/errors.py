"""What can go wrong, as exceptions that carry what the server said."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

if TYPE_CHECKING:
    from collections.abc import Mapping

_SHOWN_CHARS = 300


class ThunderAgentError(Exception):
    """Anything that this SDK raises by itself."""


class UnreachableError(ThunderAgentError):
    """No answer: no connection, a lost one, or a time-out. The cause is the exception of httpx."""


class UnexpectedAnswerError(ThunderAgentError):
    """Something answered that is not a ThunderAgent server."""


class StreamInterruptedError(ThunderAgentError):
    """A stream ended before its answer was complete."""


class APIError(ThunderAgentError):
    """The server answered with an error.

    Args:
        status: HTTP status; 200 where the error came inside a stream.
        message: the server's sentence.
        type: OpenAI's class of error, such as ``invalid_request_error``.
        param: the field at fault.
        code: a word for the program, such as ``program_not_found``.
        retry_after_s: when the server wants to be asked again, in seconds.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        type: str | None = None,  # noqa: A002 - the name of OpenAI's field
        param: str | None = None,
        code: str | int | None = None,
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(f"{message} (HTTP {status}{f', {code}' if code else ''})")
        self.status = status
        self.message = message
        self.type = type
        self.param = param
        self.code = code
        self.retry_after_s = retry_after_s


class BadRequestError(APIError):
    """400, 405, 410, 413, 422: the request itself is at fault."""


class AuthenticationError(APIError):
    """401, 403: the API key is missing or wrong."""


class NotFoundError(APIError):
    """404: no such program, backend, model or route."""


class ConflictError(APIError):
    """409: the program is registered with another specification."""


class UnavailableError(APIError):
    """429, 503: not now."""


class ServerError(APIError):
    """500 and others above: the server or the engine failed; also an error that came inside a stream."""


def api_error(status: int, body: bytes, retry_after_s: float | None = None) -> APIError:
    """Return the exception for an answer with an error status; ``body`` may be anything."""
    fields = _error_object(body)
    message = fields.get("message")
    if not isinstance(message, str):
        message = " ".join(body[:_SHOWN_CHARS].decode(errors="replace").split()) or "an error without a text"
    return _class_for(status)(
        status,
        message,
        type=_text(fields.get("type")),
        param=_text(fields.get("param")),
        code=fields.get("code") if isinstance(fields.get("code"), str | int) else None,
        retry_after_s=retry_after_s,
    )


def _error_object(body: bytes) -> Mapping[str, Any]:
    try:
        content = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return {}
    if not isinstance(content, dict):
        return {}
    inner = content.get("error")
    return inner if isinstance(inner, dict) else content


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None


def _class_for(status: int) -> type[APIError]:
    match status:
        case 401 | 403:
            return AuthenticationError
        case 404:
            return NotFoundError
        case 409:
            return ConflictError
        case 429 | 503:
            return UnavailableError
        case _ if 400 <= status < 500:  # noqa: PLR2004 - HTTP's range of client errors
            return BadRequestError
        case _:
            return ServerError
