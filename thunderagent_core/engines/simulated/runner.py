"""Drives the engine model in real time, divided by a speed factor, and hands each request its tokens."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Final, Self

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from types import TracebackType

    from thunderagent_core.engines.simulated.events import KvEvent
    from thunderagent_core.engines.simulated.model import EngineModel
    from thunderagent_core.engines.simulated.requests import EngineRequest, TokenOutput


_LOG: Final = logging.getLogger(__name__)


class EngineBrokenError(RuntimeError):
    """The engine model failed: a bug, logged where it happened."""


class TokenStream:
    """The tokens of one request as they are generated. Leaving the ``with`` block early aborts the request."""

    def __init__(self, runner: EngineRunner, request_id: str) -> None:
        self._runner = runner
        self._request_id = request_id
        self._outputs: asyncio.Queue[TokenOutput | None] = asyncio.Queue()

    def put(self, output: TokenOutput | None) -> None:
        """Add a token, or None when there will be no more because the engine broke; the runner calls this."""
        self._outputs.put_nowait(output)

    async def __aiter__(self) -> AsyncIterator[TokenOutput]:
        while True:
            output = await self._outputs.get()
            if output is None:
                raise EngineBrokenError("the engine's clock has stopped")
            yield output
            if output.finish_reason is not None:
                return

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._runner.forget(self._request_id)


class EngineRunner:
    """Owns the engine's clock. Engine time passes ``speed`` times as fast as the event loop's.

    A step begins where the one before ended, even if the event loop woke us late, so that a busy engine keeps its
    pace; after a pause it begins now.

    Args:
        model: the engine; nobody else may call its ``submit``, ``abort``, ``start_step`` or ``finish_step``.
        speed: engine seconds in a second.
        publish: is given the KV events of each step and reset, where there are any.
    """

    def __init__(self, model: EngineModel, *, speed: float, publish: Callable[[list[KvEvent]], None]) -> None:
        self.model = model
        self._speed = speed
        self._publish = publish
        self._streams: dict[str, TokenStream] = {}
        self._arrival = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Start the engine's clock. Raises RuntimeError outside an event loop."""
        self._task = asyncio.get_running_loop().create_task(self._run())

    async def aclose(self) -> None:
        """Stop the clock."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None

    def submit(self, request: EngineRequest) -> TokenStream:
        """Queue a request. Raises what ``EngineModel.submit`` raises, and EngineBrokenError."""
        if self._task is None or self._task.done():
            raise EngineBrokenError("the engine's clock does not run")
        self.model.submit(request, self._now())
        stream = self._streams[request.request_id] = TokenStream(self, request.request_id)
        self._arrival.set()
        return stream

    def forget(self, request_id: str) -> None:
        """Drop a request's stream, and abort it if it has not ended."""
        self._streams.pop(request_id, None)
        self.model.abort(request_id)

    def reset_prefix_cache(self, *, reset_running: bool) -> bool:
        """Do as ``EngineModel.reset_prefix_cache`` does, and publish it."""
        done = self.model.reset_prefix_cache(reset_running=reset_running)
        self._publish_events()
        return done

    async def pause(self, engine_s: float) -> None:
        """Wait for a time given in engine seconds."""
        await asyncio.sleep(engine_s / self._speed)

    async def _run(self) -> None:
        try:
            await self._tick()
        except Exception:  # noqa: BLE001 - whatever it was, waiting requests must hear of it
            _LOG.exception("the engine model failed")
            for stream in self._streams.values():
                stream.put(None)

    async def _tick(self) -> None:
        now = self._now()
        while True:
            step = self.model.start_step(now)
            self._publish_events()
            if step is None:
                self._arrival.clear()
                await self._arrival.wait()
                now = self._now()
                continue
            await self.pause(max(0.0, step.ends_at - self._now()))
            for output in self.model.finish_step():
                self._deliver(output)
            now = step.ends_at

    def _deliver(self, output: TokenOutput) -> None:
        stream = self._streams.get(output.request_id)
        if stream is not None:
            stream.put(output)

    def _publish_events(self) -> None:
        events = self.model.take_events()
        if events:
            self._publish(events)

    def _now(self) -> float:
        return asyncio.get_running_loop().time() * self._speed
