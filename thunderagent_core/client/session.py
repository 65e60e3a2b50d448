"""What the two clients share: address, headers, time-outs, and how a failure of httpx is to be read."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

import httpx

from thunderagent_core import __version__
from thunderagent_core.client.retry import Attempts, RetryPolicy

if TYPE_CHECKING:
    from typing import Any

    from thunderagent_core.client.calls import Call

DEFAULT_URL: Final = "http://127.0.0.1:8300"
DEFAULT_TIMEOUT: Final = httpx.Timeout(connect=5.0, read=3600.0, write=60.0, pool=None)
DEFAULT_RETRY: Final = RetryPolicy()
LIMITS: Final = httpx.Limits(max_connections=None, max_keepalive_connections=100)
LOG: Final = logging.getLogger("thunderagent_core.client")

_CONTROL_READ_S: Final = 30.0
"""Longest wait for an answer that needs no engine."""

_CLOSING_READ_S: Final = 5.0
"""The same while a program's ``with`` block is left, and for reports that an agent should not wait for."""


@dataclass(frozen=True, slots=True)
class Session:
    """Settings of one client.

    Args:
        base_url: the server's root; a ``/v1`` at its end, as OpenAI's clients need it, does not matter.
        api_key: sent as a bearer token.
        timeout: for generations; everything else is given less time to answer.
        retry: when to try again.
    """

    base_url: str
    api_key: str | None
    timeout: httpx.Timeout
    retry: RetryPolicy

    def __repr__(self) -> str:
        return f"Session({self.base_url!r})"

    def request(self, http: httpx.Client | httpx.AsyncClient, call: Call[Any], *, brief: bool = False) -> httpx.Request:
        """Build the request for a call; ``brief``: better no answer than a late one."""
        timeout = self._timeout(call, brief=brief)
        headers = {"user-agent": f"thunderagent/{__version__}"}
        if call.body is not None:
            headers["content-type"] = call.content_type
        if self.api_key is not None:
            headers["authorization"] = f"Bearer {self.api_key}"
        if call.generation and timeout.read is not None:
            # The server refuses in time what it could not admit before we would hang up.
            headers["x-stainless-read-timeout"] = f"{timeout.read:g}"
        url = self.base_url + call.path
        return http.build_request(call.method, url, headers=headers, content=call.body, timeout=timeout)

    def attempts(self, call: Call[Any], *, brief: bool = False) -> Attempts:
        """Begin to count the attempts at a call."""
        policy = self.retry
        if call.once:
            policy = replace(policy, max_retries=0)
        elif brief:
            policy = replace(policy, max_retries=min(1, policy.max_retries), max_retry_after_s=1.0)
        return Attempts(policy, self.base_url, repeatable=call.repeatable)

    def _timeout(self, call: Call[Any], *, brief: bool) -> httpx.Timeout:
        if call.generation or call.slow:
            return self.timeout
        longest = _CLOSING_READ_S if brief else _CONTROL_READ_S
        read = longest if self.timeout.read is None else min(longest, self.timeout.read)
        return httpx.Timeout(
            connect=self.timeout.connect, read=None if call.endless else read, write=longest, pool=longest
        )


def make_session(
    base_url: str, api_key: str | None, timeout: float | httpx.Timeout | None, retry: RetryPolicy
) -> Session:
    """Check and put together a client's settings. Raises ValueError for what is not an http(s) URL."""
    url = httpx.URL(base_url)
    if url.scheme not in {"http", "https"} or not url.host:
        raise ValueError(f"{base_url!r} is not an http:// or https:// URL")
    root = base_url.rstrip("/").removesuffix("/v1").rstrip("/")
    return Session(root, api_key, timeout if isinstance(timeout, httpx.Timeout) else httpx.Timeout(timeout), retry)


def no_answer(attempts: Attempts, error: httpx.TransportError) -> float:
    """Return how long to wait before the next attempt. Raises UnreachableError to give up."""
    never_sent = isinstance(error, httpx.ConnectError | httpx.ConnectTimeout | httpx.PoolTimeout)
    timed_out = isinstance(error, httpx.TimeoutException) and not never_sent
    return attempts.no_answer(error, sent=not never_sent, timed_out=timed_out)
