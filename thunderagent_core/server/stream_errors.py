"""How each API reports an error once its stream has begun."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from thunderagent_core.server.wire import Dialect

if TYPE_CHECKING:
    from collections.abc import Mapping


def stream_error(dialect: Dialect | None, detail: str) -> bytes:
    """Return the event that ends a stream whose engine broke off."""
    message = f"The engine broke off in the middle of its answer: {detail}"
    match dialect:
        case Dialect.MESSAGES:
            return _event({"type": "error", "error": {"type": "api_error", "message": message}}, "error")
        case Dialect.RESPONSES:
            return _event({"type": "error", "code": "upstream_broke_off", "message": message, "param": None}, "error")
        case _:
            error = {"message": message, "type": "server_error", "param": None, "code": "upstream_broke_off"}
            return _event({"error": error})


def _event(content: Mapping[str, Any], name: str | None = None) -> bytes:
    head = b"" if name is None else f"event: {name}\n".encode()
    return head + b"data: " + msgspec.json.encode(content) + b"\n\n"
