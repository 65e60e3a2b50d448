"""``Program`` for asyncio."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Literal, Self, overload

from thunderagent_core.client import calls, environment_calls
from thunderagent_core.client.async_environment import AsyncEnvironment
from thunderagent_core.client.errors import NotFoundError, ThunderAgentError
from thunderagent_core.client.session import LOG

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Coroutine, Mapping, Sequence
    from types import TracebackType

    from thunderagent_core.client.async_client import AsyncClient
    from thunderagent_core.client.streams import AsyncStream
    from thunderagent_core.client.views import ProgramView


class AsyncProgram:
    """One agent run. Its ``async with`` block registers it and releases it however it ends, also when cancelled."""

    def __init__(
        self,
        client: AsyncClient,
        program_id: str,
        *,
        parent_id: str | None,
        group: str | None,
        priority: int,
        environments: Sequence[Mapping[str, Any]] = (),
    ) -> None:
        self._client = client
        self.id = program_id
        self.parent_id = parent_id
        self.group = group
        self.priority = priority
        self.environments = tuple(environments)

    def __repr__(self) -> str:
        return f"AsyncProgram({self.id!r})"

    async def __aenter__(self) -> Self:
        try:
            await self.register()
        except ThunderAgentError:
            raise
        except BaseException:
            await _to_the_end(self._release_quietly())  # cancelled in between: the server may know it already
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await _to_the_end(self._release_quietly())

    @property
    def extra_body(self) -> dict[str, str]:
        """What to pass as ``extra_body`` to OpenAI's client, so that its requests belong to this program."""
        return {"program_id": self.id}

    async def register(self) -> ProgramView:
        """Announce the program; the ``async with`` statement does."""
        return await self._client.register(
            self.id,
            parent_id=self.parent_id,
            group=self.group,
            priority=self.priority,
            environments=self.environments,
        )

    def environment(self, name: str) -> AsyncEnvironment:
        """Return one of its tool environments, which the server makes when it is needed."""
        return AsyncEnvironment(self._client, self.id, name)

    async def declare(self, spec: Mapping[str, Any]) -> AsyncEnvironment:
        """Ask for one more tool environment and return it; the same again is no error."""
        view = await self._client.run(environment_calls.declare(self.id, spec))
        return self.environment(view.name)

    async def release(self) -> bool:
        """End the program; the ``async with`` statement does. False where it had ended before."""
        return await self._client.release(self.id)

    async def view(self) -> ProgramView:
        """Return what the server knows of it."""
        return await self._client.get(self.id)

    def child(self, program_id: str | None = None) -> AsyncProgram:
        """Return a program that this one starts, in the same group and with the same priority."""
        return self._client.program(program_id, parent_id=self.id, group=self.group, priority=self.priority)

    @overload
    async def chat(
        self, *, messages: Any, model: str | None = ..., stream: Literal[False] = ..., **params: Any
    ) -> dict[str, Any]: ...

    @overload
    async def chat(
        self, *, messages: Any, model: str | None = ..., stream: Literal[True], **params: Any
    ) -> AsyncStream: ...

    async def chat(
        self, *, messages: Any, model: str | None = None, stream: bool = False, **params: Any
    ) -> dict[str, Any] | AsyncStream:
        """``Client.chat`` as part of this program."""
        body = {"model": model, "messages": messages, **params}
        return await self._client.generate("/v1/chat/completions", body, program_id=self.id, stream=stream)

    @overload
    async def completions(
        self, *, prompt: Any, model: str | None = ..., stream: Literal[False] = ..., **params: Any
    ) -> dict[str, Any]: ...

    @overload
    async def completions(
        self, *, prompt: Any, model: str | None = ..., stream: Literal[True], **params: Any
    ) -> AsyncStream: ...

    async def completions(
        self, *, prompt: Any, model: str | None = None, stream: bool = False, **params: Any
    ) -> dict[str, Any] | AsyncStream:
        """``Client.completions`` as part of this program."""
        body = {"model": model, "prompt": prompt, **params}
        return await self._client.generate("/v1/completions", body, program_id=self.id, stream=stream)

    @asynccontextmanager
    async def tool(self, name: str) -> AsyncIterator[None]:
        """Report that a tool runs while the ``async with`` block does. A report that fails is logged and no error."""
        await self._report_quietly("tool_started", name)
        try:
            yield
        finally:
            await _to_the_end(self._report_quietly("tool_finished", name))

    async def idle(self) -> ProgramView:
        """Report that the run ended and the conversation may go on later."""
        return await self._client.idle(self.id)

    async def interrupted(self) -> ProgramView:
        """Report that the program waits for a person."""
        return await self._client.interrupted(self.id)

    async def resumed(self) -> ProgramView:
        """Report that it goes on."""
        return await self._client.resumed(self.id)

    async def _report_quietly(self, event: calls.ProgramEvent, tool: str) -> None:
        try:
            await self._client.run(calls.report(self.id, event, tool), brief=True)
        except Exception as error:  # noqa: BLE001 - no tool fails for want of a report
            LOG.warning("could not report %s of %s: %s", event, self.id, error)

    async def _release_quietly(self) -> None:
        """End the program. What goes wrong is logged: it must not hide why the block ended."""
        try:
            await self._client.run(calls.release(self.id), brief=True)
        except NotFoundError:
            LOG.debug("%s was gone before its release", self.id)
        except Exception as error:  # noqa: BLE001 - whatever it is, the block's own exception matters more
            LOG.warning("could not release %s, its lease will end it: %s", self.id, error)


async def _to_the_end(work: Coroutine[Any, Any, None]) -> None:
    """Wait for ``work``, which is bounded, even where this task is cancelled meanwhile; then be cancelled.

    Merely shielded, it would run on behind the caller's back and die with the event loop.
    """
    task = asyncio.ensure_future(work)
    cancelled: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.shield(task)
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled is not None:
        raise cancelled
