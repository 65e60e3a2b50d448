"""What one connection of a client may take."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

BACKLOG_BYTES: Final = 65536
"""Pipelined input held while a request is answered.

While a handler is at work a client that sends more is cut off: to stop reading would be to miss its end, and its
request would run on for nobody. Once the answer is complete its sending is merely stopped until it has taken that.
"""

LINGER_S: Final = 5.0
"""How long input is discarded after a refusal, so that a TCP reset does not destroy the refusal unread."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Sizes in bytes, times in seconds (see ``HttpServer``)."""

    max_body_bytes: int
    max_header_bytes: int
    keep_alive_s: float
    request_timeout_s: float
    send_timeout_s: float
