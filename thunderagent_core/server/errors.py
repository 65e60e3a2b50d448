"""Errors as part of the API: OpenAI error objects, with what a client's retry logic needs to know."""

from __future__ import annotations

import difflib
import math
from typing import TYPE_CHECKING

import msgspec

from thunderagent_core.environments.spec import UnknownFieldError
from thunderagent_core.scheduling.decisions import Reason

if TYPE_CHECKING:
    from collections.abc import Iterable

    from thunderagent_core.environments.spec import SpecError
    from thunderagent_core.scheduling.decisions import Refuse
    from thunderagent_core.transport.messages import Headers

MAX_RETRY_AFTER_S = 30


class ApiError(Exception):
    """An answer that is an error.

    Args:
        status: HTTP status.
        message: a sentence for a person.
        code: a word for a program.
        param: the field at fault, where there is one.
        retry_after_s: when the client should come back; None where that is pointless or up to it.
        permanent: the same request will never succeed, so SDKs are told not to retry.
        extra: further headers that this answer must have.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        code: str,
        param: str | None = None,
        retry_after_s: float | None = None,
        permanent: bool = False,
        extra: tuple[tuple[bytes, bytes], ...] = (),
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.code = code
        self.param = param
        self.retry_after_s = retry_after_s
        self.permanent = permanent
        self.extra = extra

    @property
    def type(self) -> str:
        """OpenAI's class of error."""
        match self.status:
            case 401:
                return "authentication_error"
            case 403:
                return "permission_error"
            case 404:
                return "not_found_error"
            case status if status < 500:  # noqa: PLR2004 - HTTP's border between the client's and the server's faults
                return "invalid_request_error"
            case _:
                return "server_error"

    def body(self) -> bytes:
        """Return the JSON error object."""
        error = {"message": self.message, "type": self.type, "param": self.param, "code": self.code}
        return msgspec.json.encode({"error": error})

    def headers(self) -> Headers:
        """Return the headers that belong to the error."""
        headers: Headers = [(b"content-type", b"application/json"), *self.extra]
        if self.retry_after_s is not None:
            seconds = min(MAX_RETRY_AFTER_S, max(1, math.ceil(self.retry_after_s)))
            headers += [(b"retry-after", str(seconds).encode()), (b"x-should-retry", b"true")]
        elif self.permanent:
            headers.append((b"x-should-retry", b"false"))
        return headers


def invalid(message: str, param: str | None, code: str = "invalid_value") -> ApiError:
    """Return a 400 for a request that is wrong in itself."""
    return ApiError(400, message, code=code, param=param, permanent=True)


def forbidden_method(path: str, allowed: Iterable[str]) -> ApiError:
    """Return a 405 that says which methods there are."""
    methods = ", ".join(allowed)
    extra = ((b"allow", methods.encode()),)
    return ApiError(405, f"{path} takes {methods}.", code="method_not_allowed", permanent=True, extra=extra)


def not_found(what: str, name: str) -> ApiError:
    """Return a 404 for something of ours that does not exist."""
    message = f"There is no {what} {name!r}."
    return ApiError(404, message, code=f"{what}_not_found", param=f"{what}_id", permanent=True)


def stopping(retry_after_s: float | None = 5.0) -> ApiError:
    """Return a 503 for what a server that is being stopped does not do any more."""
    return ApiError(503, "The server is stopping.", code="server_stopping", retry_after_s=retry_after_s)


def refusal(decision: Refuse, field: str | None = None) -> ApiError:
    """Return the answer to a request that the scheduler refused; ``field`` of its body holds the prompt."""
    match decision.reason:
        case Reason.TOO_LARGE:
            message = "The context fits into no backend's KV cache."
            return ApiError(400, message, code="context_too_large", param=field, permanent=True)
        case Reason.RELEASED:
            message = f"The program {decision.program_id!r} was released while this request waited."
            return ApiError(410, message, code="program_released", permanent=True)
        case Reason.NO_BACKEND:
            message = "No healthy backend."
            return ApiError(503, message, code="no_healthy_backend", retry_after_s=decision.retry_after_s)
        case Reason.STOPPING:
            return stopping(decision.retry_after_s)
        case _:
            message = "All backends are full; the request was held as long as its client allows. Its place is kept."
            return ApiError(503, message, code="held_too_long", retry_after_s=decision.retry_after_s)


def protocol_error(status: int, message: str) -> tuple[Headers, bytes]:
    """Return headers and body for what is refused below the routes (400, 401, 408, 413, 417, 431, 500, 501, 505)."""
    codes = {
        401: "invalid_api_key",
        408: "request_timeout",
        413: "request_too_large",
        431: "headers_too_large",
        500: "internal_error",
    }
    code, permanent = codes.get(status, "bad_request"), status not in {408, 500}
    extra = ((b"www-authenticate", b"Bearer"),) if status == 401 else ()  # noqa: PLR2004 - as above
    error = ApiError(status, message, code=code, permanent=permanent, extra=extra)
    return error.headers(), error.body()


def spec_error(error: SpecError) -> ApiError:
    """Return the answer to a specification that cannot be used: 422 for an unknown field, else 400."""
    if not isinstance(error, UnknownFieldError):
        return ApiError(400, f"`{error.param}`: {error}.", code="invalid_value", param=error.param, permanent=True)
    near = difflib.get_close_matches(error.given, error.known, n=1, cutoff=0.0)[0]
    text = f"Unknown field `{error.param}`; did you mean `{near}`?"
    return ApiError(422, text, code="unknown_field", param=error.param, permanent=True)
