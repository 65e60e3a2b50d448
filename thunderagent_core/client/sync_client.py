"""The synchronous client."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Literal, Self, TypeVar, overload

import httpx

from thunderagent_core.client import calls, environment_calls
from thunderagent_core.client.errors import UnavailableError
from thunderagent_core.client.program import Program, new_id
from thunderagent_core.client.session import (
    DEFAULT_RETRY,
    DEFAULT_TIMEOUT,
    DEFAULT_URL,
    LIMITS,
    make_session,
    no_answer,
)
from thunderagent_core.client.streams import Stream

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from types import TracebackType

    from thunderagent_core.client.environment_views import EnvironmentView, ReapItem
    from thunderagent_core.client.retry import RetryPolicy
    from thunderagent_core.client.views import BackendView, ProgramList, ProgramView

T = TypeVar("T")


class Client:
    """Talks to one server. Threads may share it; close it, or use it as a context manager.

    Every method raises APIError (or a subclass) for an error that the server reports, UnreachableError where
    no answer comes, and UnexpectedAnswerError for an answer that is none of this API's.

    Args:
        base_url: the server's root.
        api_key: sent as a bearer token.
        timeout: for generations, in seconds or as httpx has it: by default 5 s to connect and 3600 s between
            bytes, because a request may be held for long. None: no limit. What needs no engine is given 30 s.
        retry: when to try again.
        http_client: used instead of an own one, and not closed.
        sleep: waits between attempts.
    """

    def __init__(
        self,
        base_url: str = DEFAULT_URL,
        api_key: str | None = None,
        *,
        timeout: float | httpx.Timeout | None = DEFAULT_TIMEOUT,
        retry: RetryPolicy = DEFAULT_RETRY,
        http_client: httpx.Client | None = None,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._session = make_session(base_url, api_key, timeout, retry)
        self._http = http_client or httpx.Client(limits=LIMITS)
        self._owned = http_client is None
        self._sleep = sleep

    @property
    def base_url(self) -> str:
        """The server's root."""
        return self._session.base_url

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close all connections."""
        if self._owned:
            self._http.close()

    # Programs

    def program(
        self,
        program_id: str | None = None,
        *,
        parent_id: str | None = None,
        group: str | None = None,
        priority: int = 0,
        environments: Sequence[Mapping[str, Any]] = (),
    ) -> Program:
        """Return a program to be used in a ``with`` statement, which registers and releases it.

        Args:
            program_id: 1 to 256 characters; by default one that is unique.
            parent_id: the program that starts this one.
            group: programs whose slowest member matters.
            priority: lower runs earlier.
            environments: specifications of its tool environments, as docs/environments.md has them.
        """
        name = new_id() if program_id is None else program_id
        return Program(self, name, parent_id=parent_id, group=group, priority=priority, environments=environments)

    def register(
        self,
        program_id: str,
        *,
        parent_id: str | None = None,
        group: str | None = None,
        priority: int = 0,
        environments: Sequence[Mapping[str, Any]] = (),
    ) -> ProgramView:
        """Announce a program before its first request; again with the same arguments is no error."""
        return self.run(calls.register(program_id, parent_id, group, priority, environments))

    def programs(self) -> ProgramList:
        """Return the programs that have not ended."""
        return self.run(calls.list_programs())

    def get(self, program_id: str) -> ProgramView:
        """Return one program."""
        return self.run(calls.get_program(program_id))

    def release(self, program_id: str) -> bool:
        """End a program; False where it had ended before."""
        return self.run(calls.release(program_id))

    def report(self, program_id: str, event: calls.ProgramEvent, tool: str | None = None) -> ProgramView:
        """Tell the server what a program does: one of the events of ``POST /programs/{id}/events``."""
        return self.run(calls.report(program_id, event, tool))

    def tool_started(self, program_id: str, tool: str) -> ProgramView:
        """Report that a tool runs."""
        return self.report(program_id, "tool_started", tool)

    def tool_finished(self, program_id: str, tool: str) -> ProgramView:
        """Report that a tool is done: the next request is near."""
        return self.report(program_id, "tool_finished", tool)

    def idle(self, program_id: str) -> ProgramView:
        """Report that a run ended and its conversation may go on later."""
        return self.report(program_id, "idle")

    def interrupted(self, program_id: str) -> ProgramView:
        """Report that a program waits for a person."""
        return self.report(program_id, "interrupted")

    def resumed(self, program_id: str) -> ProgramView:
        """Report that an idle or interrupted program goes on."""
        return self.report(program_id, "resumed")

    # Tool environments

    def environments(self, program_id: str | None = None) -> tuple[EnvironmentView, ...]:
        """Return all tool environments, or those of one program."""
        call = environment_calls.list_all() if program_id is None else environment_calls.list_of(program_id)
        return self.run(call)

    def reap(self, *, dry_run: bool = False) -> tuple[ReapItem, ...]:
        """Have everything taken back that nobody owns, and return what that is; ``dry_run``: only tell."""
        return self.run(environment_calls.reap(dry_run=dry_run))

    # Generations

    @overload
    def chat(
        self,
        *,
        messages: Any,
        model: str | None = ...,
        program_id: str | None = ...,
        stream: Literal[False] = ...,
        **params: Any,
    ) -> dict[str, Any]: ...

    @overload
    def chat(
        self,
        *,
        messages: Any,
        model: str | None = ...,
        program_id: str | None = ...,
        stream: Literal[True],
        **params: Any,
    ) -> Stream: ...

    def chat(
        self,
        *,
        messages: Any,
        model: str | None = None,
        program_id: str | None = None,
        stream: bool = False,
        **params: Any,
    ) -> dict[str, Any] | Stream:
        """POST /v1/chat/completions; return the answer, or a stream of its chunks. ``params`` go into the body."""
        body = {"model": model, "messages": messages, **params}
        return self.generate("/v1/chat/completions", body, program_id=program_id, stream=stream)

    @overload
    def completions(
        self,
        *,
        prompt: Any,
        model: str | None = ...,
        program_id: str | None = ...,
        stream: Literal[False] = ...,
        **params: Any,
    ) -> dict[str, Any]: ...

    @overload
    def completions(
        self,
        *,
        prompt: Any,
        model: str | None = ...,
        program_id: str | None = ...,
        stream: Literal[True],
        **params: Any,
    ) -> Stream: ...

    def completions(
        self,
        *,
        prompt: Any,
        model: str | None = None,
        program_id: str | None = None,
        stream: bool = False,
        **params: Any,
    ) -> dict[str, Any] | Stream:
        """POST /v1/completions; return the answer, or a stream of its chunks. ``params`` go into the body."""
        body = {"model": model, "prompt": prompt, **params}
        return self.generate("/v1/completions", body, program_id=program_id, stream=stream)

    def generate(
        self, path: str, body: Mapping[str, Any], *, program_id: str | None = None, stream: bool = False
    ) -> dict[str, Any] | Stream:
        """POST to any route that generates, such as /v1/responses. Fields of ``body`` that are None are left out."""
        call = calls.generate(path, program_id, body, stream=stream)
        if stream:
            return Stream(self._exchange(call, stream=True))
        return self.run(call)

    # Backends and the server

    def backends(self) -> tuple[BackendView, ...]:
        """Return all backends."""
        return self.run(calls.list_backends())

    def add_backend(self, url: str) -> BackendView:
        """Put an engine under the server."""
        return self.run(calls.add_backend(url))

    def drain_backend(self, backend_id: str) -> None:
        """Send nothing new to a backend, and remove it once nothing is in flight there."""
        self.run(calls.drain_backend(backend_id))

    def health(self) -> None:
        """Return if the server runs."""
        self.run(calls.probe("/health"))

    def ready(self) -> bool:
        """Tell whether the server could forward a request now."""
        try:
            self.run(calls.probe("/ready"), brief=True)
        except UnavailableError:
            return False
        return True

    def events(self) -> Stream:
        """Follow the scheduler's decisions, from now on."""
        return self.open_stream(calls.events())

    def open_stream(self, call: calls.Call[dict[str, Any]]) -> Stream:
        """Perform a call whose answer is a stream that knows its own end."""
        return Stream(self._exchange(call, stream=True), endless=True)

    def run(self, call: calls.Call[T], *, brief: bool = False) -> T:
        """Perform a call; ``brief``: with little time and one retry at most."""
        return call.decode(self._exchange(call, brief=brief).content)

    def _exchange(self, call: calls.Call[Any], *, stream: bool = False, brief: bool = False) -> httpx.Response:
        attempts = self._session.attempts(call, brief=brief)
        while True:
            try:
                response = self._http.send(self._session.request(self._http, call, brief=brief), stream=stream)
                if response.is_success:
                    return response
                response.read()
            except httpx.TransportError as error:
                delay_s = no_answer(attempts, error)
            else:
                delay_s = attempts.refused(response.status_code, response.headers, response.content)
            self._sleep(delay_s)
