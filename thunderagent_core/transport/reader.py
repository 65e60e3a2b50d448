"""Bytes from a client to requests, within limits. Pure: it neither waits nor writes."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

import httptools

from thunderagent_core.transport.messages import Headers, Refusal, Request

if TYPE_CHECKING:
    from collections.abc import Sequence

    from thunderagent_core.transport.messages import Screen

_WATCHED: Final = frozenset((b"host", b"content-length", b"transfer-encoding", b"expect"))

_FRAMING_PER_BODY_BYTE: Final = 16
"""A one-byte chunk takes six bytes on the wire; more than this much framing is an attack, not a body."""


@dataclass(slots=True)
class Received:
    """A request with what its connection needs to know to answer it."""

    request: Request
    keep_alive: bool
    http_1_0: bool


class _RefusedError(Exception):
    """Stops the parser in the middle of its input; the reason is in ``RequestReader.refusal``."""


class RequestReader:
    """Parses one connection's bytes. Complete requests wait in ``ready``, in order.

    ``refusal`` is set once, at the first thing that cannot be served; all further input is ignored. Requests
    that were complete before it stay in ``ready`` and are answered first. ``receiving`` tells whether a
    request is here in part, ``wants_continue`` whether its sender waits for ``100 Continue``.

    ``screen`` may refuse a request once its head is here, so that nothing of its body is kept.

    The limits are exact for what is handed out. What is held before that may pass them by one read of the
    socket, because the parser cannot be stopped in the middle of one.
    """

    __slots__ = (
        "_chunked",
        "_ended",
        "_feeding",
        "_framing_bytes",
        "_head_bytes",
        "_head_done",
        "_headers",
        "_http_1_0",
        "_max_body_bytes",
        "_max_header_bytes",
        "_parser",
        "_parts",
        "_path",
        "_pieces",
        "_query",
        "_screen",
        "_size",
        "_upgrading",
        "_url",
        "on_body",
        "ready",
        "receiving",
        "refusal",
        "wants_continue",
    )

    def __init__(self, max_body_bytes: int, max_header_bytes: int, screen: Screen | None = None) -> None:
        self._max_body_bytes = max_body_bytes
        self._max_header_bytes = max_header_bytes
        self._screen = screen
        self.ready: deque[Received] = deque()
        self.refusal: Refusal | None = None
        self._ended = False  # the client announced its last request
        self._pieces: list[bytes] = []  # of the body, since the last read of the socket
        self._parts: list[bytes] = []  # of the body, one for each earlier read
        # The parser looks its callbacks up once, so that each piece goes to the list without a Python call.
        self.on_body = self._pieces.append
        self._feeding = 0
        self._upgrading = False
        self._reset()
        self.receiving = False
        self._parser = httptools.HttpRequestParser(self)

    def _reset(self) -> None:
        self.receiving = True
        self.wants_continue = False
        self._url = b""
        self._path = self._query = ""
        self._headers: Headers = []
        self._head_done = False
        self._head_bytes = 0
        self._http_1_0 = False
        self._chunked = False
        self._framing_bytes = 0
        self._size = 0

    def feed(self, data: bytes) -> None:
        """Take what the socket gave."""
        if self.refusal is not None or self._ended:
            return
        began_before = self.receiving
        body_before = began_before and self._head_done
        self._feeding = len(data)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            self._parse_without_upgrade(data[upgrade.args[0] :])
        except httptools.HttpParserError as error:
            self._parser_failed(error)
        else:
            if self.receiving:
                self._check_partial(len(data), began_before=began_before, body_before=body_before)

    def _check_partial(self, count: int, *, began_before: bool, body_before: bool) -> None:
        """Bound what an incomplete request makes us hold."""
        if not self._head_done:
            self._head_bytes += count if began_before else 0  # else some of it belongs to the one before
            if self._head_bytes > self._max_header_bytes:
                self._refuse(431, f"the request's head exceeds {self._max_header_bytes} bytes")
            return
        fresh = b"".join(self._pieces)
        self._pieces.clear()
        self._parts.append(fresh)
        self._size += len(fresh)
        if self._size > self._max_body_bytes:
            self._refuse_body()
        if self._chunked and body_before:
            self._framing_bytes += count - len(fresh)
            if self._framing_bytes > self._max_header_bytes + _FRAMING_PER_BODY_BYTE * self._size:
                self._refuse(400, "too many chunk extensions or trailers")

    def _refuse(self, status: int, message: str) -> None:
        if self.refusal is None:
            self.refusal = Refusal(status, message)
            self.receiving = False

    def _refuse_body(self) -> None:
        self._refuse(413, f"the request's body exceeds {self._max_body_bytes} bytes")

    def _parser_failed(self, error: Exception) -> None:
        if self._ended:
            return  # it complains of bytes behind the last request, which nobody will read
        if isinstance(error, httptools.HttpParserCallbackError) and self.refusal is None:
            raise error  # a fault of ours, with its cause attached
        self._refuse(400, f"malformed HTTP request: {error}")

    def _parse_without_upgrade(self, rest: bytes) -> None:
        """Read the request as if it had not offered another protocol, which a server is free to do.

        The parser treats what follows such a head as that other protocol, so a fresh one is given the head
        again without the offer. (Java's standard HTTP client offers h2c on every first request.)
        """
        fields = [b"%b: %b\r\n" % field for field in self._headers if field[0] != b"upgrade"]
        line = b"%b %b HTTP/1.1\r\n" % (self._parser.get_method(), self._url)
        self._parser = httptools.HttpRequestParser(self)
        self._upgrading = False
        self.feed(b"".join([line, *fields, b"\r\n", rest]))

    # What follows is called by the parser.

    def on_message_begin(self) -> None:
        """Start a request."""
        self._reset()

    def on_url(self, url: bytes) -> None:
        """Take the request target, or a part of it."""
        self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a field of the head; trailers are dropped."""
        if not self._head_done:
            self._headers.append((name.lower(), value.rstrip(b" \t")))

    def on_headers_complete(self) -> None:
        """Judge the head."""
        self._head_done = True
        version = self._parser.get_http_version()
        self._http_1_0 = version == "1.0"
        if self._head_bytes + self._feeding > self._max_header_bytes:
            self._check_head_size()
        if self._parser.should_upgrade():
            self._upgrading = True
            if self._parser.get_method() != b"CONNECT":
                return
            self._refuse(501, "CONNECT is not supported")
        else:
            watched = [field for field in self._headers if field[0] in _WATCHED]
            refusal = judge_head(version, watched, self._max_body_bytes) or self._judge_request()
            if refusal is not None:
                self._refuse(*refusal)
            self._chunked = any(name == b"transfer-encoding" for name, _ in watched)
            self.wants_continue = version == "1.1" and any(name == b"expect" for name, _ in watched)
        if self.refusal is not None:
            raise _RefusedError

    def _judge_request(self) -> Refusal | None:
        try:
            self._path, self._query = split_target(self._url)
        except ValueError:
            return Refusal(400, "the request target makes no sense")
        if self._screen is None:
            return None
        return self._screen(self._parser.get_method().decode("ascii"), self._path, self._headers)

    def _check_head_size(self) -> None:
        size = len(self._url) + sum(len(name) + len(value) + 4 for name, value in self._headers)
        if size > self._max_header_bytes:
            self._refuse(431, f"the request's head exceeds {self._max_header_bytes} bytes")

    def on_message_complete(self) -> None:
        """Hand the request out."""
        if self._upgrading:
            return
        pieces = [*self._parts, *self._pieces] if self._parts else self._pieces
        body = pieces[0] if len(pieces) == 1 else b"".join(pieces)
        self._parts.clear()
        self._pieces.clear()
        self.receiving = self.wants_continue = False
        if len(body) > self._max_body_bytes:
            self._refuse_body()
            raise _RefusedError
        method = self._parser.get_method().decode("ascii")
        request = Request(method, self._path, self._query, self._headers, body)
        keep_alive = self._parser.should_keep_alive()
        self._ended = not keep_alive
        self.ready.append(Received(request, keep_alive, self._http_1_0))


def judge_head(version: str, watched: Sequence[tuple[bytes, bytes]], max_body_bytes: int) -> Refusal | None:
    """Return why a head is refused, or None. ``watched`` are its fields that concern framing.

    Whatever could make another server on the way see a different end of this request is refused.
    """
    hosts = [value for name, value in watched if name == b"host"]
    expectations = [value.lower() for name, value in watched if name == b"expect"]
    if version not in ("1.0", "1.1"):
        refusal = Refusal(505, f"HTTP/{version} is not supported")
    elif len(hosts) > 1 or (version == "1.1" and not hosts):
        refusal = Refusal(400, "exactly one Host header is required")
    elif any(value != b"100-continue" for value in expectations):
        refusal = Refusal(417, "the only supported expectation is 100-continue")
    else:
        return _judge_framing(version, watched, max_body_bytes)
    return refusal


def _judge_framing(version: str, watched: Sequence[tuple[bytes, bytes]], max_body_bytes: int) -> Refusal | None:
    codings = [value.lower() for name, value in watched if name == b"transfer-encoding"]
    lengths = [value for name, value in watched if name == b"content-length"]
    if codings and (lengths or version == "1.0"):
        return Refusal(400, "Transfer-Encoding with Content-Length or HTTP/1.0")
    if codings and codings != [b"chunked"]:
        return Refusal(501, "the only supported transfer coding is chunked")
    if lengths and (len(lengths) > 1 or not lengths[0].isdigit()):
        return Refusal(400, "Content-Length must be one decimal number")
    if lengths and int(lengths[0]) > max_body_bytes:
        return Refusal(413, f"the request's body exceeds {max_body_bytes} bytes")
    return None


def split_target(url: bytes) -> tuple[str, str]:
    """Return path and query of a request target, be it ``/a?b``, ``http://host/a?b`` or ``*``. Raises ValueError."""
    text = url.decode("latin-1")
    if not text.startswith("/") and "://" in text:
        parts = urlsplit(text)
        return parts.path or "/", parts.query
    path, _, query = text.partition("#")[0].partition("?")
    return path, query
