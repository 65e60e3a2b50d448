"""One try of a request at an engine, which may be given up from outside."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType


class AbandonedError(Exception):
    """The attempt was given up: its engine counts as lost, and another one can take the request."""


class Attempt:
    """Surrounds the try, in the request's own task. Raises AbandonedError in place of the cancellation it causes.

    Args:
        among: the attempts at the engine; this one is there until its end.
        replaceable: whether another engine could still answer instead.
    """

    __slots__ = ("_abandoned", "_among", "_cancelling", "_replaceable", "_task")

    def __init__(self, among: set[Attempt], replaceable: Callable[[], bool]) -> None:
        self._among = among
        self._replaceable = replaceable
        self._abandoned = False
        self._task: asyncio.Task[object] | None = None
        self._cancelling = 0

    def __enter__(self) -> Self:
        self._task = asyncio.current_task()
        self._cancelling = 0 if self._task is None else self._task.cancelling()
        self._among.add(self)
        return self

    def engine_lost(self) -> None:
        """Give up, where that helps: without another engine it is better to wait, as this one may only be slow."""
        if self._task is not None and not self._abandoned and self._replaceable():
            self._abandoned = True
            self._task.cancel()  # at once: until the task runs again nothing of the answer can get out

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._among.discard(self)
        if self._abandoned and self._task is not None:
            ours_alone = self._task.uncancel() <= self._cancelling  # else the client has gone as well
            if ours_alone and isinstance(error, asyncio.CancelledError):
                raise AbandonedError from error
