"""Handles on a server under test: a client that knows its routes, a raw one, and an auditor of its trace."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import struct
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from thunderagent_core.scheduling.trace import replay

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import httpx

    from thunderagent_core.server.serve import Server

HANG_S = 60.0
"""Bounds waits for what must happen; only a failing test ever waits this long."""

CHAT = "/v1/chat/completions"

RARELY = {"poll_interval_s": 600.0}
"""The server learns of a failure from its requests, not from polling."""


async def soon(condition: Callable[[], Any]) -> None:
    """Wait for what must become true."""
    async with asyncio.timeout(HANG_S):
        while not condition():
            await asyncio.sleep(0.002)


def messages(text: str = "hello", **fields: Any) -> dict[str, Any]:
    """Return the body of a chat request."""
    return {"model": "m", "messages": [{"role": "user", "content": text}], **fields}


def text_of(tokens: int) -> str:
    """Return text that is taken for about so many tokens before anything has been measured."""
    return "x" * (4 * tokens)


def check_error(response, status: int, param: str | None, *, code: str | None = None) -> None:
    """An OpenAI error object with the right retry advice."""
    assert response.status_code == status, response.text
    error = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["message"]
    assert error["type"].endswith("_error")
    assert error["param"] == param
    assert isinstance(error["code"], str)
    assert code is None or error["code"] == code
    retry = response.headers.get("x-should-retry")
    if "retry-after" in response.headers:
        assert 1 <= int(response.headers["retry-after"]) <= 30
        assert retry == "true"
    elif status in {408, 409, 429} or status >= 500:
        assert retry == "false", "SDKs retry these unless told not to"


@dataclass
class Running:
    """A server under test and a client for it."""

    server: Server
    client: httpx.AsyncClient
    trace: Path
    port: int

    @property
    def runtime(self):
        return self.server.runtime

    @property
    def scheduler(self):
        return self.server.runtime.scheduler

    async def chat(self, program: str | None = None, text: str = "hello", **fields: Any) -> httpx.Response:
        body = messages(text, **fields)
        if program is not None:
            body["program_id"] = program
        return await self.client.post(CHAT, json=body)

    def asking(self, program: str | None = None, text: str = "hello", **fields: Any) -> asyncio.Task[httpx.Response]:
        """Send a chat request without waiting for its answer."""
        return asyncio.create_task(self.chat(program, text, **fields))

    async def get(self, path: str) -> Any:
        response = await self.client.get(path)
        assert response.status_code == 200, response.text
        return response.json()

    async def program(self, program_id: str) -> Any:
        return await self.get(f"/programs/{program_id}")

    async def release(self, program_id: str) -> httpx.Response:
        return await self.client.post("/programs/release", json={"program_id": program_id})

    async def state(self) -> Any:
        """Return everything that a bad request must not change; what only time changes is left out."""
        programs = (await self.get("/programs"))["programs"]
        backends = (await self.get("/backends"))["backends"]
        timeless = [{k: v for k, v in p.items() if k not in _TIMES} for p in programs]
        steady = [{k: v for k, v in b.items() if k not in {"engine", "reason", "demand_tokens"}} for b in backends]
        return timeless, steady, dict(self.runtime.ended)

    async def healthy(self, count: int) -> None:
        """Wait until so many backends are healthy."""
        await soon(lambda: sum(b.healthy for b in self.scheduler.backends.values()) == count)

    async def idle(self) -> None:
        """Wait until nothing is open."""
        await soon(lambda: self.scheduler.open_requests == 0 and not self.runtime._tickets)

    def steps(self, kind: str) -> list[dict[str, Any]]:
        """Return the trace's events of one kind so far."""
        self.runtime._trace.flush()
        steps = [json.loads(line) for line in self.trace.read_text().splitlines()[1:]]
        return [step["event"] for step in steps if step["event"]["type"] == kind]

    def held(self) -> int:
        return sum(len(program.held) for program in self.scheduler.programs.values())


_TIMES = {"phase_s", "waiting_s", "waited_s", "longest_wait_s", "history"}


class RawClient:
    """One connection, spoken by hand."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    @classmethod
    async def connect(cls, port: int) -> RawClient:
        return cls(*await asyncio.open_connection("127.0.0.1", port))

    def send(self, data: bytes) -> None:
        self.writer.write(data)

    def post(self, path: str, body: Any, *headers: str) -> None:
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        lines = [f"POST {path} HTTP/1.1", "host: localhost", f"content-length: {len(content)}", *headers, "", ""]
        self.send("\r\n".join(lines).encode() + content)

    async def until(self, what: bytes) -> bytes:
        async with asyncio.timeout(HANG_S):
            return await self.reader.readuntil(what)

    async def head(self) -> bytes:
        return await self.until(b"\r\n\r\n")

    async def answer(self) -> tuple[int, bytes]:
        """Read a whole answer on a connection that is kept; the status and the body as it came."""
        head = await self.head()
        _, _, length = head.partition(b"content-length: ")
        body = (
            await self.reader.readexactly(int(length.split(b"\r")[0])) if length else await self.until(b"\r\n0\r\n\r\n")
        )
        return int(head.split()[1]), body

    async def rest(self) -> bytes:
        """Return all that comes until the server closes the connection."""
        async with asyncio.timeout(HANG_S):
            try:
                return await self.reader.read()
            except ConnectionResetError:
                return b""

    def nothing_yet(self) -> bool:
        return not self.reader._buffer  # type: ignore[attr-defined]

    async def close(self) -> None:
        self.writer.close()
        with contextlib.suppress(ConnectionError):  # the server was first
            await self.writer.wait_closed()

    def vanish(self) -> None:
        """Go with a TCP reset, as a killed process with unread data does."""
        connection = self.writer.get_extra_info("socket")
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()


def audit(trace: Path, *, tracked_go_home: bool = True) -> None:
    """Check what must hold in every run, from the record that the server itself made of it."""
    lines = trace.read_text().splitlines()
    assert [mismatch for mismatch in replay(lines) if mismatch is not None] == []
    steps = [json.loads(line) for line in lines[1:]]
    ends = Counter(step["event"]["request_id"] for step in steps if step["event"]["type"] == "RequestEnded")
    ends += Counter(d["request_id"] for step in steps for d in step["decisions"] if d["type"] == "Refuse")
    arrived = Counter(step["event"]["request_id"] for step in steps if step["event"]["type"] == "RequestArrived")
    assert set(arrived.values()) <= {1}
    assert ends == arrived, "every request that arrived ended exactly once"
    if tracked_go_home:
        _check_forwards(steps)


def _check_forwards(steps: list[dict[str, Any]]) -> None:
    """A request goes where its program is bound; past it only where that engine has failed to take it or is closed."""
    bound: dict[str, str] = {}
    lost: set[str] = set()
    drained: set[str] = set()
    for step in steps:
        _note_closed(step["event"], lost, drained)
        for decision in step["decisions"]:
            program = decision.get("program_id")
            match decision["type"]:
                case "Restore":
                    bound[program] = decision["backend_id"]
                case "Pause" | "Reclaim":
                    bound.pop(program, None)
                case "Forward" if program is not None:
                    assert program in bound, step
                    elsewhere = step["event"]["type"] == "ForwardFailed" or bound[program] in lost | drained
                    assert elsewhere or bound[program] == decision["backend_id"], step


def _note_closed(event: dict[str, Any], lost: set[str], drained: set[str]) -> None:
    match event["type"]:
        case "BackendLost":
            lost.add(event["backend_id"])
        case "BackendSampled":
            lost.discard(event["backend_id"])
        case "BackendDrained":
            drained.add(event["backend_id"])
        case "BackendAdded":
            drained.discard(event["backend_id"])
