"""Errors as vLLM words them, in the shape of each API."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any


class ApiError(Exception):
    """A request that is refused.

    Args:
        status: HTTP status.
        message: what the client reads.
        kind: ``type`` of the error object; by default vLLM's name for the status.
        param: name of the field at fault.
    """

    def __init__(self, status: int, message: str, *, kind: str | None = None, param: str | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.kind = kind if kind is not None else _kind(status)
        self.param = param

    def openai(self) -> dict[str, Any]:
        """Return the error object of the OpenAI APIs, with vLLM's numeric code."""
        error = {"message": self.message, "type": self.kind, "param": self.param, "code": self.status}
        return {"error": error}

    def anthropic(self) -> dict[str, Any]:
        """Return the error object of the Anthropic API."""
        return {"type": "error", "error": {"type": self.kind, "message": self.message}}


def invalid(field: str, problem: str) -> ApiError:
    """Return the refusal of a body whose ``field`` has the wrong form, as vLLM's validation reports it."""
    where = f"body.{field}" if field else "body"
    return ApiError(400, f"1 validation error:\n  {where}: {problem}", kind="Bad Request", param=where)


def unsupported(message: str, param: str | None = None) -> ApiError:
    """Return the refusal of a well-formed request that this engine cannot serve."""
    return ApiError(400, message, param=param)


def unknown_model(asked: str, served: str) -> ApiError:
    """Return vLLM's 404 for a model that is not served."""
    return ApiError(404, f"The model `{asked}` does not exist. Valid aliases: {served}.", param="model")


def prompt_too_long(prompt_tokens: int, max_model_len: int) -> ApiError:
    """Return vLLM's 400 for a prompt that leaves no room for output."""
    message = (
        f"This model's maximum context length is {max_model_len} tokens. However, your prompt contains "
        f"{prompt_tokens} input tokens, which exceeds this limit even without any output tokens. "
        f"Please reduce the length of the input prompt. (parameter=input_tokens, value={prompt_tokens})"
    )
    return ApiError(400, message, param="input_tokens")


def _kind(status: int) -> str:
    if status == HTTPStatus.BAD_REQUEST:
        return "BadRequestError"
    if status == HTTPStatus.NOT_FOUND:
        return "NotFoundError"
    if status == HTTPStatus.SERVICE_UNAVAILABLE:
        return "ServiceUnavailableError"
    if status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        return "InternalServerError"
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return "Error"
