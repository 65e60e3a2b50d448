"""Answers that come in pieces."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, Self

import httpx

from thunderagent_core.client.calls import json_object
from thunderagent_core.client.errors import StreamInterruptedError, api_error
from thunderagent_core.client.sse import SseParser

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from types import TracebackType

    from thunderagent_core.client.sse import SseEvent

_DONE: Final = "[DONE]"
_LAST: Final = frozenset(("message_stop", "response.completed", "response.failed", "response.incomplete"))
"""Types of the last item of a whole answer, in the APIs that have no ``[DONE]``."""

_IN_STREAM: Final = 200


class Stream:
    """Iterate over the JSON objects of a stream. Leaving it early closes the connection, which stops the engine.

    Raises ServerError for an error inside the stream, StreamInterruptedError where it ends too early.
    """

    def __init__(self, response: httpx.Response, *, endless: bool = False) -> None:
        self._response = response
        self._endless = endless
        self._items = self._read()

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return self

    def __next__(self) -> dict[str, Any]:
        return next(self._items)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Stop. May be called twice."""
        self._response.close()

    def _read(self) -> Iterator[dict[str, Any]]:
        parser, whole = SseParser(), self._endless
        try:
            for piece in self._response.iter_bytes():
                for event in parser.feed(piece):
                    if event.data == _DONE:
                        return
                    item = _item(event)
                    whole = whole or item.get("type") in _LAST
                    yield item
        except (httpx.TransportError, httpx.StreamError) as error:
            raise StreamInterruptedError(f"the stream broke off: {error}") from error
        finally:
            self.close()
        _check(whole)


class AsyncStream:
    """Like ``Stream``, with ``async for`` and ``async with``."""

    def __init__(self, response: httpx.Response, *, endless: bool = False) -> None:
        self._response = response
        self._endless = endless
        self._items = self._read()

    def __aiter__(self) -> AsyncIterator[dict[str, Any]]:
        return self

    async def __anext__(self) -> dict[str, Any]:
        return await anext(self._items)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Stop. May be called twice."""
        await self._response.aclose()

    async def _read(self) -> AsyncIterator[dict[str, Any]]:
        parser, whole = SseParser(), self._endless
        try:
            async for piece in self._response.aiter_bytes():
                for event in parser.feed(piece):
                    if event.data == _DONE:
                        return
                    item = _item(event)
                    whole = whole or item.get("type") in _LAST
                    yield item
        except (httpx.TransportError, httpx.StreamError) as error:
            raise StreamInterruptedError(f"the stream broke off: {error}") from error
        finally:
            await self.aclose()
        _check(whole)


def _item(event: SseEvent) -> dict[str, Any]:
    data = event.data.encode()
    item = json_object(data)
    if event.event == "error" or isinstance(item.get("error"), dict):
        raise api_error(_IN_STREAM, data)
    return item


def _check(whole: bool) -> None:
    """Take the end of a stream without its mark for what it is: an answer that is cut short."""
    if not whole:
        raise StreamInterruptedError("the stream ended before its answer was complete")
