"""Header fields on the wire: encoding them safely, and which of them a relay may pass on."""

from __future__ import annotations

import string
from http import HTTPStatus
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable

    from thunderagent_core.transport.messages import Headers

# Lower case only: one spelling for each name makes the tests for reserved names exact and cheap.
_NAME_CHARACTERS: Final = (string.ascii_lowercase + string.digits + "!#$%&'*+-.^_`|~").encode()

_REASONS: Final = MappingProxyType({status.value: status.phrase for status in HTTPStatus})

RESPONSE_FRAMING: Final = frozenset((b"content-length", b"transfer-encoding", b"connection"))
"""Fields of a response which the server writes itself."""

REQUEST_FRAMING: Final = RESPONSE_FRAMING | {b"host"}
"""Fields of a request which the connection pool writes itself."""

FINAL_STATUS: Final = 200
"""The first status that ends an exchange; those below are interim."""

_LAST_STATUS: Final = 999

_HOP_BY_HOP: Final = frozenset(
    (
        b"connection",
        b"content-length",
        b"expect",
        b"host",
        b"keep-alive",
        b"proxy-authenticate",
        b"proxy-authorization",
        b"proxy-connection",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
    )
)


def end_to_end(headers: Headers) -> Headers:
    """Return the fields that a relay passes on.

    Left out are those that describe one connection or one message's framing: the hop-by-hop fields, those
    which ``connection`` names, and ``host``, ``content-length`` and ``expect``.
    """
    dropped = _HOP_BY_HOP
    for name, value in headers:
        if name == b"connection":
            dropped |= {token.strip() for token in value.lower().split(b",")}
    return [field for field in headers if field[0] not in dropped]


def encode_fields(
    headers: Iterable[tuple[bytes, bytes]], reserved: frozenset[bytes], extra: bytes, date: bytes = b""
) -> bytes:
    """Return the header block, ``extra`` (already encoded lines) and the empty line that ends it.

    ``date``, where given, becomes the Date field unless ``headers`` have one.

    Raises ValueError where a name is not a lower-case token or is one of ``reserved``, or where a value
    holds CR, LF or NUL: nothing that a peer or an agent chose can add a field or end the head.
    """
    lines = []
    names = []
    for name, value in headers:
        names.append(name)
        lines.append(name + b": " + value + b"\r\n")
    block = b"".join(lines)
    if b"".join(names).translate(None, _NAME_CHARACTERS) or b"" in names:
        raise ValueError(f"header names must be lower-case tokens: {names!r}")
    if not reserved.isdisjoint(names):
        raise ValueError(f"the transport itself writes {sorted(reserved.intersection(names))!r}")
    if block.count(b"\n") != len(lines) or block.count(b"\r") != len(lines) or b"\0" in block:
        raise ValueError("header values must not contain CR, LF or NUL")
    if date and b"date" not in names:
        extra += b"date: %b\r\n" % date
    return block + extra + b"\r\n"


def status_line(status: int) -> bytes:
    """Return the first line of a response. Raises ValueError for what is not a final status (200 to 999)."""
    if not FINAL_STATUS <= status <= _LAST_STATUS:
        raise ValueError(f"not the status of a final response: {status}")
    return f"HTTP/1.1 {status} {_REASONS.get(status, '')}\r\n".encode("ascii")


def request_line(method: str, target: str) -> bytes:
    """Return the first line of a request. Raises ValueError where a part could end the line."""
    if not (method.isascii() and method.isalpha()):
        raise ValueError(f"not an HTTP method: {method!r}")
    if not (target.startswith("/") and target.isascii() and target.isprintable()) or " " in target:
        raise ValueError(f"not a percent-encoded path: {target!r}")
    return f"{method} {target} HTTP/1.1\r\n".encode("ascii")
