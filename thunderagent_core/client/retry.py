"""When to send a request again, and after how long: decided here without sending or sleeping."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING

from thunderagent_core.client.errors import UnreachableError, api_error

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

_FIRST_SERVER_ERROR = 500
_NOT_PROCESSED = frozenset((429, 503))
_PASSING = frozenset((408, 429))


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryPolicy:
    """Exponential back-off with jitter; a ``Retry-After`` of the server is always waited out.

    Args:
        max_retries: how often a request is sent again; 0 never.
        first_delay_s: wait before the first retry in seconds; each further one doubles it.
        max_delay_s: longest wait in seconds where the server does not say how long.
        max_retry_after_s: a server that wants a longer wait, in seconds, is not asked again.
        jitter: returns a random number from 0 to 1; waits are shortened by up to half of themselves by it.
    """

    max_retries: int = 4
    first_delay_s: float = 0.5
    max_delay_s: float = 8.0
    max_retry_after_s: float = 60.0
    jitter: Callable[[], float] = random.random

    def delay_s(self, retry: int, retry_after_s: float | None = None) -> float | None:
        """Return the wait before retry number ``retry``, counted from 1; None: give up."""
        if retry > self.max_retries:
            return None
        if retry_after_s is not None:
            # Later by up to a quarter, so that all who were refused at once do not come back at once.
            return retry_after_s * (1 + self.jitter() / 4) if retry_after_s <= self.max_retry_after_s else None
        return min(self.max_delay_s, self.first_delay_s * 2.0 ** (retry - 1)) * (1 - self.jitter() / 2)


class Attempts:
    """The attempts at one request. Ask after each failure how long to wait before the next; or it raises.

    Args:
        policy: how often and how long.
        address: whom it is for.
        repeatable: whether sending it again does no harm even if the server has seen it.
    """

    def __init__(self, policy: RetryPolicy, address: str, *, repeatable: bool) -> None:
        self._policy = policy
        self._address = address
        self._repeatable = repeatable
        self._retries = 0

    def no_answer(self, error: Exception, *, sent: bool, timed_out: bool) -> float:
        """Return the wait after an exchange without an answer. Raises UnreachableError to give up.

        A request that timed out while the server worked on it is not repeated: it would do so again.
        """
        delay = self._next() if not sent or (self._repeatable and not timed_out) else None
        if delay is None:
            raise UnreachableError(f"no answer from {self._address}: {_describe(error)}") from error
        return delay

    def refused(self, status: int, headers: Mapping[str, str], body: bytes) -> float:
        """Return the wait after an answer with an error. Raises APIError to give up."""
        wait_s = retry_after_s(headers.get("retry-after"), datetime.now(UTC))
        delay = self._next(wait_s) if self._worth_it(status, headers.get("x-should-retry")) else None
        if delay is None:
            raise api_error(status, body, wait_s)
        return delay

    def _next(self, wait_s: float | None = None) -> float | None:
        self._retries += 1
        return self._policy.delay_s(self._retries, wait_s)

    def _worth_it(self, status: int, should_retry: str | None) -> bool:
        if should_retry in {"true", "false"}:
            return should_retry == "true"
        if status in _NOT_PROCESSED:
            return True
        return self._repeatable and (status in _PASSING or status >= _FIRST_SERVER_ERROR)


def retry_after_s(value: str | None, now: datetime) -> float | None:
    """Read a Retry-After header: seconds, or a date. None where there is none that makes sense."""
    if not value:
        return None
    try:
        seconds = float(value)
    except ValueError:
        return _seconds_until(value, now)
    return seconds if 0 <= seconds < math.inf else None


def _seconds_until(date: str, now: datetime) -> float | None:
    try:
        when = parsedate_to_datetime(date)
    except ValueError:
        return None
    return max(0.0, (when if when.tzinfo else when.replace(tzinfo=UTC)).timestamp() - now.timestamp())


def _describe(error: Exception) -> str:
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
