"""Ask one engine over HTTP, bounded in time, with one kind of error that says in a sentence what is wrong."""

from __future__ import annotations

import asyncio
import ssl
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import httpx
import msgspec

from thunderagent_core.engines.base import EngineError

if TYPE_CHECKING:
    from collections.abc import Iterator

_SHOWN_BODY = 200
"""Characters of an unexpected answer that go into the error."""


class NotFoundError(EngineError):
    """The engine answers, but does not have this page."""


class EngineHttp:
    """GET requests to one engine over kept connections.

    Args:
        url: the engine's base address, such as ``http://10.0.0.1:8000``.
        timeout_s: longest time for one question, connecting included.
        api_key: sent as a bearer token where given.
        transport: what carries the requests, for tests; by default the network, never through a proxy.
    """

    def __init__(
        self,
        url: str,
        *,
        timeout_s: float,
        api_key: str | None = None,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        self.url = url.rstrip("/")
        self._timeout_s = timeout_s
        self._client = httpx.AsyncClient(
            headers={"authorization": f"Bearer {api_key}"} if api_key else {},
            timeout=timeout_s,
            transport=transport,
            trust_env=False,
            verify=_verification(self.url),
        )

    async def text(self, path: str) -> str:
        """Return the page at ``path``.

        Raises:
            EngineError: unreachable (``refused`` where nobody listens), too slow, or another status than 200.
            NotFoundError: the status is 404.
        """
        url = self.url + path
        try:
            async with asyncio.timeout(self._timeout_s):
                answer = await self._client.get(url)
        except (TimeoutError, httpx.TimeoutException) as error:
            raise EngineError(f"{url} did not answer within {self._timeout_s:g} s") from error
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            refused = _is_refusal(error)
            reason = "connection refused" if refused else str(error) or type(error).__name__
            raise EngineError(f"{url} is unreachable: {reason}", refused=refused) from error
        if answer.status_code != httpx.codes.OK:
            kind = NotFoundError if answer.status_code == httpx.codes.NOT_FOUND else EngineError
            raise kind(f"{url} answered {answer.status_code}: {_shown(answer.text)}")
        return answer.text

    async def json(self, path: str) -> dict[str, Any]:
        """Return the JSON object at ``path``. Raises EngineError as ``text`` does, or if it is not an object."""
        text = await self.text(path)
        try:
            return msgspec.json.decode(text, type=dict[str, Any])
        except msgspec.DecodeError as error:
            raise EngineError(f"{self.url}{path} did not answer with a JSON object: {error}") from error

    async def aclose(self) -> None:
        """Close the connections."""
        await self._client.aclose()


def _shown(body: str) -> str:
    """Return the beginning of an unexpected answer on one line, for logs and terminals."""
    text = " ".join(body[:_SHOWN_BODY].split())
    return "".join(c if c.isprintable() else "?" for c in text) or "nothing"


@contextmanager
def first_error() -> Iterator[None]:
    """Around a task group: raise the first of its errors by itself, for callers that expect an EngineError."""
    try:
        yield
    except BaseExceptionGroup as errors:
        raise errors.exceptions[0] from None


def _is_refusal(error: BaseException) -> bool:
    """Return whether the root of the error is that nobody listens; httpx wraps it several times."""
    return any(isinstance(cause, ConnectionRefusedError) for cause in _causes(error))


def _causes(error: BaseException) -> Iterator[BaseException]:
    yield error
    if isinstance(error, BaseExceptionGroup):
        for inner in error.exceptions:
            yield from _causes(inner)
    deeper = error.__cause__ or error.__context__
    if deeper is not None:
        yield from _causes(deeper)


def _verification(url: str) -> ssl.SSLContext:
    """Return how certificates are checked. For plain HTTP none is loaded: that would take 20 ms for each engine."""
    return ssl.create_default_context() if url.startswith("https:") else ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
