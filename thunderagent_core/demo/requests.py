"""One streamed chat request: its text, its times and its usage."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import msgspec

from thunderagent_core.transport.messages import TransportError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from thunderagent_core.transport.client import ConnectionPool
    from thunderagent_core.transport.messages import Headers, Response

_OK: Final = 200
_REFUSED_FOR_NOW: Final = frozenset((429, 503))
_DATA: Final = b"data:"
_DONE: Final = b"[DONE]"
_SHOWN_CHARS: Final = 200
_PATIENCE_S: Final = 10.0


class _Details(msgspec.Struct, frozen=True):
    cached_tokens: int | None = None


class Usage(msgspec.Struct, frozen=True):
    """Token counts of one answer, as OpenAI's API has them."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    prompt_tokens_details: _Details | None = None

    @property
    def cached_tokens(self) -> int | None:
        """Prompt tokens that the engine had cached; None where it does not tell."""
        return None if self.prompt_tokens_details is None else self.prompt_tokens_details.cached_tokens


class _Delta(msgspec.Struct, frozen=True):
    content: str | None = None


class _Choice(msgspec.Struct, frozen=True):
    delta: _Delta = _Delta()


class _Chunk(msgspec.Struct, frozen=True):
    choices: tuple[_Choice, ...] = ()
    usage: Usage | None = None
    error: Any = None


class RequestFailedError(Exception):
    """A request got no whole answer, and repeating it would not help."""


class RefusedForNowError(Exception):
    """A request was sent away, to come back after ``retry_after_s`` seconds."""

    def __init__(self, retry_after_s: float) -> None:
        super().__init__(f"refused, to be repeated after {retry_after_s:g} s")
        self.retry_after_s = retry_after_s


@dataclass(slots=True)
class Answer:
    """What came back. ``first_token_at`` is on the event loop's clock, in seconds."""

    text: str = ""
    first_token_at: float | None = None
    usage: Usage = field(default_factory=Usage)


async def stream_chat(
    pool: ConnectionPool, headers: Headers, body: dict[str, Any], clock: Callable[[], float]
) -> Answer:
    """POST a streamed chat request and read its answer.

    Raises RefusedForNowError for 429 and 503, RequestFailedError for any other failure.
    """
    try:
        response = await pool.request("POST", "/v1/chat/completions", headers, msgspec.json.encode(body))
        try:
            if response.status != _OK:
                await _raise_refusal(response)
            return await _read(response, clock)
        finally:
            response.close()
    except TransportError as error:
        raise RequestFailedError(str(error)) from error


async def _read(response: Response, clock: Callable[[], float]) -> Answer:
    answer, done = Answer(), False
    parts: list[str] = []
    async for data in _data_lines(response):
        if data == _DONE:
            done = True
            continue
        chunk = _decode(data)
        if chunk.usage is not None:
            answer.usage = chunk.usage
        text = "".join(choice.delta.content or "" for choice in chunk.choices)
        if text and answer.first_token_at is None:
            answer.first_token_at = clock()
        parts.append(text)
    if not done:
        raise RequestFailedError("the stream ended before its answer was complete")
    answer.text = "".join(parts)
    return answer


def _decode(data: bytes) -> _Chunk:
    try:
        chunk = msgspec.json.decode(data, type=_Chunk)
    except msgspec.DecodeError as error:
        raise RequestFailedError(f"a chunk that is none: {error}") from error
    if chunk.error is not None:
        raise RequestFailedError(f"an error in the stream: {chunk.error}")
    return chunk


async def _data_lines(response: Response) -> AsyncIterator[bytes]:
    rest = b""
    async for piece in response:
        *lines, rest = (rest + piece).split(b"\n")
        for line in lines:
            if line.startswith(_DATA):
                yield line[len(_DATA) :].strip()


async def _raise_refusal(response: Response) -> None:
    body = await response.read()
    headers = dict(response.headers)
    if response.status in _REFUSED_FOR_NOW and headers.get(b"x-should-retry") != b"false":
        raise RefusedForNowError(_seconds(headers.get(b"retry-after")))
    raise RequestFailedError(f"HTTP {response.status}: {body[:_SHOWN_CHARS].decode(errors='replace')}")


def _seconds(value: bytes | None) -> float:
    try:
        return max(0.0, float(value or b"1"))
    except ValueError:
        return 1.0


async def call_json(
    pool: ConnectionPool,
    method: str,
    path: str,
    headers: Headers,
    body: Any = None,
    *,
    timeout_s: float = _PATIENCE_S,
    repeatable: bool = True,
) -> tuple[int, Any]:
    """Exchange JSON; return status and content, None for what is not JSON. Raises RequestFailedError.

    ``repeatable``: see ``ConnectionPool.request``.
    """
    payload = b"" if body is None else msgspec.json.encode(body)
    exchange = _exchange(pool, method, path, headers, payload, repeatable=repeatable)
    status, content = await _in_time(exchange, f"{method} {path}", timeout_s)
    try:
        return status, msgspec.json.decode(content)
    except msgspec.DecodeError:
        return status, None


async def get_text(pool: ConnectionPool, path: str) -> str:
    """Return a page. Raises RequestFailedError where there is none."""
    status, content = await _in_time(_exchange(pool, "GET", path, [], b""), f"GET {path}", _PATIENCE_S)
    if status != _OK:
        raise RequestFailedError(f"GET {path}: HTTP {status}")
    return content.decode(errors="replace")


async def _exchange(
    pool: ConnectionPool, method: str, path: str, headers: Headers, payload: bytes, *, repeatable: bool = True
) -> tuple[int, bytes]:
    response = await pool.request(method, path, headers, payload, repeatable=repeatable)
    return response.status, await response.read()


async def _in_time(exchange: Awaitable[tuple[int, bytes]], name: str, timeout_s: float) -> tuple[int, bytes]:
    try:
        async with asyncio.timeout(timeout_s):
            return await exchange
    except (TransportError, TimeoutError) as error:
        raise RequestFailedError(f"{name}: {error or 'no answer in time'}") from error
