"""What an answer says it cost, or why it failed, in whichever dialect."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import Any

import msgspec


@dataclass(slots=True)
class Usage:
    """Token counts of one answer; None where the engine has not said.

    ``prompt_tokens`` includes ``cached_tokens``, as OpenAI counts; Anthropic's ``input_tokens`` do not, so the
    parts are added up.
    """

    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    cached_tokens: int | None = None

    def take(self, usage: Any) -> None:
        """Take in one ``usage`` object; later ones of a stream overwrite what they repeat."""
        if not isinstance(usage, dict):
            return
        prompt = _count(usage.get("prompt_tokens", usage.get("input_tokens")))
        completion = _count(usage.get("completion_tokens", usage.get("output_tokens")))
        details = usage.get("prompt_tokens_details") or usage.get("input_tokens_details")
        cached = _count(details.get("cached_tokens")) if isinstance(details, dict) else None
        if "cache_read_input_tokens" in usage:
            cached = _count(usage["cache_read_input_tokens"]) or 0
            prompt = (prompt or 0) + cached + (_count(usage.get("cache_creation_input_tokens")) or 0)
        self.prompt_tokens = self.prompt_tokens if prompt is None else prompt
        self.completion_tokens = self.completion_tokens if completion is None else completion
        self.cached_tokens = self.cached_tokens if cached is None else cached


class _Envelope(msgspec.Struct):
    """Where a whole answer keeps its usage; everything else is skipped without being built."""

    usage: dict[str, Any] | None = None


def read_usage(body: bytes) -> Usage:
    """Return the usage of a complete, non-streamed answer; empty where it holds none or is not JSON."""
    usage = Usage()
    with contextlib.suppress(msgspec.MsgspecError):
        usage.take(_decode_envelope(body).usage)
    return usage


def find_usage(event: dict[str, Any]) -> Any:
    """Return the ``usage`` of one streamed event: at the top, in ``response`` or in ``message``."""
    for holder in (event, event.get("response"), event.get("message")):
        if isinstance(holder, dict) and holder.get("usage"):
            return holder["usage"]
    return None


def find_error(event: dict[str, Any]) -> dict[str, Any] | None:
    """Return the error that one streamed event reports: at the top, in ``response``, or the event itself."""
    for holder in (event, event.get("response")):
        if isinstance(holder, dict) and isinstance(holder.get("error"), dict):
            error: dict[str, Any] = holder["error"]
            return error
    return event if event.get("type") == "error" else None


_decode_envelope = msgspec.json.Decoder(_Envelope).decode


def _count(value: Any) -> int | None:
    return value if isinstance(value, int) and value >= 0 else None
