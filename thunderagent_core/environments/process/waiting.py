"""Waiting that cannot be broken off half-way, and reading small answers from pipes."""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine
    from typing import Any

T = TypeVar("T")

_READ_BYTES = 65_536


async def finish(work: Coroutine[Any, Any, T]) -> T:
    """Await something that must not stop half-way: who is cancelled meanwhile goes on waiting, and then ends."""
    task = asyncio.ensure_future(work)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        if not task.cancelled():
            await asyncio.wait({task})
            if not task.cancelled():
                task.exception()  # taken note of: the cancellation is what the caller hears of
        raise


async def in_thread(function: Callable[..., T], *arguments: Any) -> T:
    """Run what blocks on the disk in a thread. A thread cannot be cancelled, so it is waited for in any case."""
    return await finish(asyncio.to_thread(function, *arguments))


async def read_answer(descriptor: int, is_whole: Callable[[bytes], bool] = lambda _: False) -> bytes:
    """Read a pipe to its end, or until what came is whole. The descriptor stays open."""
    loop = asyncio.get_running_loop()
    os.set_blocking(descriptor, False)
    answer = bytearray()
    ended = asyncio.Event()

    def take() -> None:
        try:
            data = os.read(descriptor, _READ_BYTES)
        except BlockingIOError:
            return
        answer.extend(data)
        if not data or is_whole(bytes(answer)):
            ended.set()

    loop.add_reader(descriptor, take)
    try:
        await ended.wait()
    finally:
        loop.remove_reader(descriptor)
    return bytes(answer)
