"""Agents at work: each sends its turns one after another, lets its tool run in between, and is released at the end."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote

from thunderagent_core.demo.records import ProgramRecord, RequestRecord, RunResult
from thunderagent_core.demo.requests import Answer, RefusedForNowError, RequestFailedError, call_json, stream_chat
from thunderagent_core.demo.tools import Toolbox, run_tool
from thunderagent_core.demo.workload import plan, system_prompt
from thunderagent_core.transport.client import ConnectionPool

if TYPE_CHECKING:
    from collections.abc import Callable

    from thunderagent_core.demo.workload import ProgramPlan, TurnPlan, Workload
    from thunderagent_core.transport.messages import Headers

_OK: Final = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """Where the agents send their requests, and how they say who they are.

    Args:
        url: root of the server, without /v1.
        model: name of the model to ask for.
        api_key: sent as a bearer token.
        prefix: begins every program's id; two runs on one server need different ones.
        salt: begins every prompt. Runs with different ones, of the same length, are the same work without
            profiting from each other's cache.
        id_field: field of the body that carries the program's id; None: none does.
        id_header: header that carries it; None: none does.
        extra_body: further fields of every request.
        views: whether ``GET /programs/{id}`` tells of waits.
        release: whether to release programs at their end with ``POST /programs/release``.
        speed: how much faster than ours the workload's clock runs; 10 makes a tool of 2 s run for 0.2 s, and
            0.2 s that were measured count as 2 s. For simulated engines that are as much faster.
        request_timeout_s: longest time for one request, in our seconds.
        tools: where tools run, on a server with tool environments; None: a tool is only waited for.
        max_refusals: how often a request that is refused for the time being is repeated.
    """

    url: str
    model: str
    api_key: str | None = None
    prefix: str = "agent"
    salt: str = ""
    id_field: str | None = "program_id"
    id_header: str | None = None
    extra_body: dict[str, Any] | None = None
    views: bool = True
    release: bool = True
    speed: float = 1.0
    request_timeout_s: float = 1800.0
    tools: Toolbox | None = None
    max_refusals: int = 100

    def headers(self, program_id: str | None = None) -> Headers:
        """Return the headers of a request."""
        headers: Headers = [(b"content-type", b"application/json")]
        if self.api_key is not None:
            headers.append((b"authorization", f"Bearer {self.api_key}".encode()))
        if self.id_header is not None and program_id is not None:
            headers.append((self.id_header.lower().encode(), program_id.encode()))
        return headers


async def run_agents(
    target: Target, workload: Workload, listener: Callable[[RequestRecord], object] | None = None
) -> RunResult:
    """Run a batch of agents to its end; ``listener`` is told of each request when it ends.

    A request that fails ends its agent and is part of the result; nothing is raised for it.
    """
    pool = ConnectionPool(target.url, max_idle=4 * workload.programs)
    run = _Run(pool, target, target.salt + system_prompt(workload), listener)
    try:
        async with asyncio.TaskGroup() as group:
            for program in plan(workload):
                group.create_task(_Agent(run, program).live())
        run.result.duration_s = run.now()
    finally:
        await pool.aclose()
    return run.result


class _Run:
    """What the agents of one run share: the target, the clock and the records."""

    def __init__(
        self, pool: ConnectionPool, target: Target, system: str, listener: Callable[[RequestRecord], object] | None
    ) -> None:
        self.pool = pool
        self.target = target
        self.system = system
        self.result = RunResult()
        self._listener = listener
        self._loop = asyncio.get_running_loop()
        self._began_at = self._loop.time()

    def now(self) -> float:
        """Seconds since the start of the run, on the workload's clock."""
        return (self._loop.time() - self._began_at) * self.target.speed

    async def sleep(self, seconds: float) -> None:
        """Let time pass on the workload's clock."""
        await asyncio.sleep(seconds / self.target.speed)

    def add(self, record: RequestRecord) -> None:
        """Keep a record and tell the listener."""
        self.result.requests.append(record)
        if self._listener is not None:
            self._listener(record)


class _Agent:
    """One agent: its conversation so far, and what it does next."""

    def __init__(self, run: _Run, program: ProgramPlan) -> None:
        self._run = run
        self._target = run.target
        self._plan = program
        self._id = f"{run.target.prefix}-{program.index}"
        self._messages = [{"role": "system", "content": run.system}] if run.system else []
        self._turns = 0

    async def live(self) -> None:
        """Run to the end, be released, and leave a record."""
        await self._run.sleep(self._plan.start_s)
        started_s, error = self._run.now(), None
        try:
            await self._work()
        except RequestFailedError as failure:
            error = str(failure)
        finally:
            completion_s = self._run.now() - started_s
            view = await self._view()
            problem = await self._release()
        record = ProgramRecord(
            program=self._plan.index,
            started_s=started_s,
            completion_s=completion_s,
            turns=self._turns,
            longest_wait_s=self._server_time(view.get("longest_wait_s")),
            waited_s=self._server_time(view.get("waited_s")),
            pauses=view.get("pauses"),
            error=error or problem,
        )
        self._run.result.programs.append(record)

    async def _work(self) -> None:
        text, reports = self._plan.turns[0].text, ""
        for number, turn in enumerate(self._plan.turns):
            self._messages.append({"role": "user", "content": text + reports})
            answer, *others = await self._turn(number, turn)
            self._messages.append({"role": "assistant", "content": answer.text})
            reports = "".join(f" Report {index}: {other.text}" for index, other in enumerate(others, start=1))
            self._turns += 1
            text = await self._act(number, turn)

    async def _act(self, number: int, turn: TurnPlan) -> str:
        """Let the tool run after a turn; return its observation, which begins the next one."""
        rest = self._plan.turns[number + 1 :]
        if self._target.tools is None or not rest:
            await self._run.sleep(turn.tool_s)
            return rest[0].text if rest else ""
        return await run_tool(
            self._run.pool,
            self._target.headers(),
            self._id,
            seconds=turn.tool_s / self._target.speed,
            number=number + 1,
            finding=rest[0].text,
        )

    async def _turn(self, number: int, turn: TurnPlan) -> list[Answer]:
        """Send a turn's requests at once and return the answers when all have ended."""
        calls = [self._request(number, call, turn.output_tokens) for call in range(turn.calls)]
        results = await asyncio.gather(*calls, return_exceptions=True)
        failures = [result for result in results if isinstance(result, BaseException)]
        if failures:
            raise failures[0]
        return [result for result in results if isinstance(result, Answer)]

    async def _request(self, number: int, call: int, output_tokens: int) -> Answer:
        """Send one request, again while it is refused for the time being, and leave a record."""
        started_s, refusals, error = self._run.now(), 0, None
        answer = Answer()
        try:
            while True:
                try:
                    answer = await self._send(number, call, output_tokens)
                    break
                except RefusedForNowError as refusal:
                    refusals += 1
                    if refusals > self._target.max_refusals:
                        raise RequestFailedError(f"refused {refusals} times") from refusal
                    await asyncio.sleep(refusal.retry_after_s)
        except RequestFailedError as failure:
            error = str(failure)
            raise
        finally:
            self._record(number=number, call=call, started_s=started_s, answer=answer, refusals=refusals, error=error)
        return answer

    async def _send(self, number: int, call: int, output_tokens: int) -> Answer:
        body = {
            "model": self._target.model,
            "messages": self._variant(call),
            "stream": True,
            "stream_options": {"include_usage": True},
            "max_tokens": output_tokens,
            **(self._target.extra_body or {}),
        }
        if self._target.id_field is not None:
            body[self._target.id_field] = self._id
        if self._target.tools is not None and number == 0:
            body["environments"] = [self._target.tools.declaration()]
        try:
            async with asyncio.timeout(self._target.request_timeout_s):
                return await stream_chat(self._run.pool, self._target.headers(self._id), body, self._run.now)
        except TimeoutError as error:
            raise RequestFailedError(f"no answer within {self._target.request_timeout_s:g} s") from error

    def _variant(self, call: int) -> list[dict[str, str]]:
        """Return the conversation, with other words at its end for a sub-call."""
        if call == 0:
            return self._messages
        *before, last = self._messages
        return [*before, {**last, "content": f"{last['content']} Sub-task {call}: look at this part alone."}]

    def _record(
        self, *, number: int, call: int, started_s: float, answer: Answer, refusals: int, error: str | None
    ) -> None:
        first = answer.first_token_at
        self._run.add(
            RequestRecord(
                program=self._plan.index,
                turn=number,
                call=call,
                started_s=started_s,
                first_token_s=None if first is None else first - started_s,
                latency_s=self._run.now() - started_s,
                prompt_tokens=answer.usage.prompt_tokens,
                cached_tokens=answer.usage.cached_tokens,
                completion_tokens=answer.usage.completion_tokens,
                refusals=refusals,
                error=error,
            )
        )

    def _server_time(self, seconds: float | None) -> float | None:
        """Bring a time that the server measured to the workload's clock."""
        return None if seconds is None else seconds * self._target.speed

    async def _view(self) -> dict[str, Any]:
        """Return what the server knows of this program; nothing where it does not tell."""
        if not self._target.views:
            return {}
        path = f"/programs/{quote(self._id, safe='')}"
        try:
            status, view = await call_json(self._run.pool, "GET", path, self._target.headers())
        except RequestFailedError:
            return {}
        return view if status == _OK and isinstance(view, dict) else {}

    async def _release(self) -> str | None:
        """End the program; return what went wrong, since one that is left behind spoils the next run."""
        if not self._target.release:
            return None
        body = {"program_id": self._id}
        try:
            status, _ = await call_json(self._run.pool, "POST", "/programs/release", self._target.headers(), body)
        except RequestFailedError as failure:
            return f"not released: {failure}"
        return None if status == _OK else f"not released: HTTP {status}"
