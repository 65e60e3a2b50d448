"""Header fields on their way to an engine and back."""

from __future__ import annotations

import time
from datetime import UTC
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING
from urllib.parse import quote

from thunderagent_core.server.errors import MAX_RETRY_AFTER_S
from thunderagent_core.transport.headers import end_to_end

if TYPE_CHECKING:
    from thunderagent_core.server.access import Access
    from thunderagent_core.transport.messages import Headers

_CREDENTIALS = frozenset({b"authorization", b"x-api-key"})


class EngineHeaders:
    """Makes what engines are sent of what clients sent.

    Args:
        access: knows which credentials were meant for us.
        backend_api_key: replaces the client's credentials towards the engines, where given.
    """

    def __init__(self, access: Access, backend_api_key: str | None = None) -> None:
        self._access = access
        self._authorization = None if backend_api_key is None else f"Bearer {backend_api_key}".encode()

    def request(self, headers: Headers, program_id: str | None) -> Headers:
        """Return what the engine is sent. Compressed answers could not be read, so none is asked for."""
        headers = [field for field in end_to_end(headers) if field[0] != b"accept-encoding"]
        if program_id is not None:
            headers = [field for field in headers if field[0] != b"x-session-id"]
            headers.append((b"x-session-id", session_id(program_id)))
        if self._authorization is None:
            return self._access.forwarded(headers)
        return [field for field in headers if field[0] not in _CREDENTIALS] + self._replacement()

    def credentials(self, headers: Headers) -> Headers:
        """Return nothing but the credentials with which an engine is asked on behalf of a client."""
        if self._authorization is not None:
            return self._replacement()
        return self._access.forwarded([field for field in headers if field[0] in _CREDENTIALS])

    def _replacement(self) -> Headers:
        return [] if self._authorization is None else [(b"authorization", self._authorization)]


def answer_headers(status: int, headers: Headers) -> Headers:
    """Return what the client is sent of an engine's headers. No error keeps it away for more than 30 s."""
    passed = [field for field in end_to_end(headers) if field[0] != b"date"]
    if status < 400:  # noqa: PLR2004 - HTTP's first error
        return passed
    return [(name, _capped(value) if name == b"retry-after" else value) for name, value in passed]


def _capped(retry_after: bytes) -> bytes:
    """Return a Retry-After of at most 30 s; what makes no sense stays as it is."""
    text = retry_after.decode("latin-1")
    try:
        seconds = _seconds_until(text) if "," in text else float(text)
    except ValueError:
        return retry_after
    return b"%d" % MAX_RETRY_AFTER_S if seconds > MAX_RETRY_AFTER_S else retry_after


def _seconds_until(date: str) -> float:
    """Return in how many seconds an HTTP date is; it has a comma after the day. Raises ValueError."""
    when = parsedate_to_datetime(date)
    return (when if when.tzinfo else when.replace(tzinfo=UTC)).timestamp() - time.time()


def session_id(program_id: str) -> bytes:
    """Return the program id as a header value; what a header cannot hold is percent-encoded, and then ``%`` too."""
    if program_id.isascii() and "%" not in program_id and program_id.strip() == program_id:
        return program_id.encode()
    return quote(program_id, safe="/:@!$&'()*+,;=").encode()
