"""Who is let in: clients with a key, and without keys everybody but web pages from elsewhere."""

from __future__ import annotations

import hmac
import ipaddress
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from thunderagent_core.server.errors import ApiError
from thunderagent_core.transport.messages import Refusal

if TYPE_CHECKING:
    from thunderagent_core.transport.messages import Headers, Request

OPEN_PATHS = frozenset({"/health", "/ready"})
"""Probes carry no key, and tell nothing."""

_CREDENTIALS = frozenset({b"authorization", b"x-api-key"})


class Access:
    """Rules on who may send what.

    Args:
        api_keys: keys of which a client must send one, if there are any.
        host: the address that the server listens on.
    """

    def __init__(self, api_keys: tuple[str, ...], host: str) -> None:
        self._api_keys = tuple(key.encode() for key in api_keys)
        self._own_name = host.lower()
        self._private = not api_keys and _is_loopback(host)

    @property
    def keyed(self) -> bool:
        """Whether clients need a key."""
        return bool(self._api_keys)

    def screen(self, _method: str, path: str, headers: Headers) -> Refusal | None:
        """Refuse a request without a key before its body is read: strangers must not fill our memory."""
        if path in OPEN_PATHS or self._matches(_given_key(headers)):
            return None
        return Refusal(401, "Missing or wrong API key.")

    def forwarded(self, headers: Headers) -> Headers:
        """Return the headers without the key that was meant for us: an engine, or who runs it, has no use for it."""
        if not self._api_keys:
            return headers
        ours = {field for field in headers if field[0] in _CREDENTIALS and self._matches(_key_in(*field))}
        return [field for field in headers if field not in ours]

    def check_page(self, request: Request) -> None:
        """Refuse what a web page from elsewhere sends to engines. Raises ApiError (403).

        A browser lets any page send requests to this machine. With keys set a page needs one like everybody.
        """
        if self._api_keys or request.method in {"GET", "HEAD", "OPTIONS"}:
            return
        origin = request.header(b"origin")
        if origin is None or _is_local_page(origin):
            return
        message = "Web pages from elsewhere (Origin) may use this server only where it has API keys: see --api-key."
        raise ApiError(403, message, code="browser_request", permanent=True)

    def check_own_route(self, request: Request) -> None:
        """Refuse web pages on our own routes. Raises ApiError (403).

        They may change nothing: any page could have the prompts sent to an engine of its own by adding it as a
        backend. And a page may not read, under a name of its own that it has let point to this machine.
        """
        if request.method not in {"GET", "HEAD"} and request.header(b"origin") is not None:
            message = "Requests of web pages (with an Origin header) may not change anything here."
            raise ApiError(403, message, code="browser_request", permanent=True)
        if self._private and request.path not in OPEN_PATHS and not self._is_our_name(request.header(b"host")):
            message = "The Host header names another server. Use an IP address or localhost, or set --api-key."
            raise ApiError(403, message, code="foreign_host", permanent=True)

    def _is_our_name(self, value: bytes | None) -> bool:
        """Whether a Host is an address, or a name that nobody else can give to this machine."""
        name = _without_port((value or b"").decode("latin-1"))
        return not name or name == self._own_name or _is_local_name(name) or _address(name) is not None

    def _matches(self, given: bytes) -> bool:
        # Every key is compared, so that the time taken tells nothing about which one came close.
        matches = [hmac.compare_digest(given, key) for key in self._api_keys]
        return any(matches)


def _given_key(headers: Headers) -> bytes:
    """Return what a client shows as its key: its bearer token, or else its ``X-API-Key``."""
    found = dict(reversed([field for field in headers if field[0] in _CREDENTIALS]))  # of several the first counts
    bearer = found.get(b"authorization", b"")
    if bearer.partition(b" ")[0].lower() == b"bearer":
        return _key_in(b"authorization", bearer)
    return _key_in(b"x-api-key", found.get(b"x-api-key", b""))


def _key_in(name: bytes, value: bytes) -> bytes:
    """Return the key within a header field; empty where it holds none."""
    if name == b"x-api-key":
        return value.strip()
    scheme, _, token = value.partition(b" ")
    return token.strip() if scheme.lower() == b"bearer" else b""


def _without_port(host: str) -> str:
    """Return the name or address in a Host header, in lower case and without brackets."""
    if host.startswith("["):
        return host[1:].partition("]")[0].lower()
    return host.partition(":")[0].rstrip(".").lower()


def _is_local_page(origin: bytes) -> bool:
    """Whether a page comes from this machine itself."""
    try:
        name = urlsplit(origin.decode("latin-1")).hostname or ""
    except ValueError:
        return False
    return _is_loopback(name)


def _is_loopback(name: str) -> bool:
    address = _address(name)
    return _is_local_name(name) if address is None else address.is_loopback


def _is_local_name(name: str) -> bool:
    """Whether a name stands for this machine wherever it is looked up (RFC 6761)."""
    return name == "localhost" or name.endswith(".localhost")


def _address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(text)
    except ValueError:
        return None
