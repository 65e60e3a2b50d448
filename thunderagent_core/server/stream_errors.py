"""How each API reports an error once its stream has begun."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from thunderagent_core.server.wire import Dialect
from thunderagent_core.transport.messages import UpstreamSilentError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from thunderagent_core.transport.messages import ConnectionLostError


def broken_off(dialect: Dialect | None, error: ConnectionLostError) -> bytes:
    """Return the event that ends a stream whose engine broke off or fell silent."""
    message = f"The engine broke off in the middle of its answer: {error}"
    if isinstance(error, UpstreamSilentError):
        return _error_event(dialect, message, code="upstream_timeout")
    return _error_event(dialect, message, code="upstream_broke_off")


def server_stopped(dialect: Dialect | None) -> bytes:
    """Return the event that ends a stream which outlasted the server's grace."""
    message = "The server was stopped in the middle of this answer."
    return _error_event(dialect, message, code="server_stopping")


def _error_event(dialect: Dialect | None, message: str, *, code: str) -> bytes:
    match dialect:
        case Dialect.MESSAGES:
            return _event({"type": "error", "error": {"type": "api_error", "message": message}}, "error")
        case Dialect.RESPONSES:
            return _event({"type": "error", "code": code, "message": message, "param": None}, "error")
        case _:
            return _event({"error": {"message": message, "type": "server_error", "param": None, "code": code}})


def _event(content: Mapping[str, Any], name: str | None = None) -> bytes:
    head = b"" if name is None else f"event: {name}\n".encode()
    return head + b"data: " + msgspec.json.encode(content) + b"\n\n"
