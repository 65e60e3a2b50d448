"""A program as a context manager."""

from __future__ import annotations

import uuid
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal, Self, overload

from thunderagent_core.client import calls, environment_calls
from thunderagent_core.client.environment import Environment
from thunderagent_core.client.errors import NotFoundError, ThunderAgentError
from thunderagent_core.client.session import LOG

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from types import TracebackType

    from thunderagent_core.client.streams import Stream
    from thunderagent_core.client.sync_client import Client
    from thunderagent_core.client.views import ProgramView


def new_id() -> str:
    """Return an id that no other program has."""
    return f"program-{uuid.uuid4().hex}"


class Program:
    """One agent run. ``Client.program`` makes it; its ``with`` block registers it and releases it however it ends."""

    def __init__(
        self,
        client: Client,
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
        return f"Program({self.id!r})"

    def __enter__(self) -> Self:
        try:
            self.register()
        except ThunderAgentError:
            raise
        except BaseException:
            self._release_quietly()  # interrupted in between: the server may know it already
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._release_quietly()

    @property
    def extra_body(self) -> dict[str, str]:
        """What to pass as ``extra_body`` to OpenAI's client, so that its requests belong to this program."""
        return {"program_id": self.id}

    def register(self) -> ProgramView:
        """Announce the program; the ``with`` statement does."""
        return self._client.register(
            self.id,
            parent_id=self.parent_id,
            group=self.group,
            priority=self.priority,
            environments=self.environments,
        )

    def environment(self, name: str) -> Environment:
        """Return one of its tool environments, which the server makes when it is needed."""
        return Environment(self._client, self.id, name)

    def declare(self, spec: Mapping[str, Any]) -> Environment:
        """Ask for one more tool environment and return it; the same again is no error."""
        view = self._client.run(environment_calls.declare(self.id, spec))
        return self.environment(view.name)

    def release(self) -> bool:
        """End the program; the ``with`` statement does. False where it had ended before."""
        return self._client.release(self.id)

    def view(self) -> ProgramView:
        """Return what the server knows of it."""
        return self._client.get(self.id)

    def child(self, program_id: str | None = None) -> Program:
        """Return a program that this one starts, in the same group and with the same priority."""
        return self._client.program(program_id, parent_id=self.id, group=self.group, priority=self.priority)

    @overload
    def chat(
        self, *, messages: Any, model: str | None = ..., stream: Literal[False] = ..., **params: Any
    ) -> dict[str, Any]: ...

    @overload
    def chat(self, *, messages: Any, model: str | None = ..., stream: Literal[True], **params: Any) -> Stream: ...

    def chat(
        self, *, messages: Any, model: str | None = None, stream: bool = False, **params: Any
    ) -> dict[str, Any] | Stream:
        """``Client.chat`` as part of this program."""
        body = {"model": model, "messages": messages, **params}
        return self._client.generate("/v1/chat/completions", body, program_id=self.id, stream=stream)

    @overload
    def completions(
        self, *, prompt: Any, model: str | None = ..., stream: Literal[False] = ..., **params: Any
    ) -> dict[str, Any]: ...

    @overload
    def completions(self, *, prompt: Any, model: str | None = ..., stream: Literal[True], **params: Any) -> Stream: ...

    def completions(
        self, *, prompt: Any, model: str | None = None, stream: bool = False, **params: Any
    ) -> dict[str, Any] | Stream:
        """``Client.completions`` as part of this program."""
        body = {"model": model, "prompt": prompt, **params}
        return self._client.generate("/v1/completions", body, program_id=self.id, stream=stream)

    @contextmanager
    def tool(self, name: str) -> Iterator[None]:
        """Report that a tool runs while the ``with`` block does. A report that fails is logged and no error."""
        self._report_quietly("tool_started", name)
        try:
            yield
        finally:
            self._report_quietly("tool_finished", name)

    def idle(self) -> ProgramView:
        """Report that the run ended and the conversation may go on later."""
        return self._client.idle(self.id)

    def interrupted(self) -> ProgramView:
        """Report that the program waits for a person."""
        return self._client.interrupted(self.id)

    def resumed(self) -> ProgramView:
        """Report that it goes on."""
        return self._client.resumed(self.id)

    def _report_quietly(self, event: calls.ProgramEvent, tool: str) -> None:
        try:
            self._client.run(calls.report(self.id, event, tool), brief=True)
        except Exception as error:  # noqa: BLE001 - no tool fails for want of a report
            LOG.warning("could not report %s of %s: %s", event, self.id, error)

    def _release_quietly(self) -> None:
        """End the program. What goes wrong is logged: it must not hide why the block ended."""
        try:
            self._client.run(calls.release(self.id), brief=True)
        except NotFoundError:
            LOG.debug("%s was gone before its release", self.id)
        except Exception as error:  # noqa: BLE001 - whatever it is, the block's own exception matters more
            LOG.warning("could not release %s, its lease will end it: %s", self.id, error)
