"""How a server ends: gently, at once, or killed; and what its trace is worth then."""

from __future__ import annotations

import asyncio
import contextlib
import json
import resource
import signal
import sys
from pathlib import Path

import httpx
import pytest
from scripted_engine import Gate, delta
from server_tools import CHAT, HANG_S, RawClient, audit, messages, soon, text_of

from thunderagent_core.scheduling.trace import replay

SCRIPT = Path(__file__).parent / "serve_process.py"


async def test_a_graceful_stop_lets_what_is_in_flight_finish_and_sends_the_rest_away(engine_factory, serve, raw):
    engine = await engine_factory(capacity_tokens=1000)
    engine.reply = gate = Gate()
    run = await serve(engine, decay_base=1.0)
    flying = run.asking("a", text_of(600))
    streaming = await raw(run.port)
    await soon(lambda: gate.arrived == 1)
    held = [run.asking(name, text_of(600)) for name in ("b", "c")]
    await soon(lambda: run.held() == 2)
    idle = await raw(run.port)
    half = await raw(run.port)
    half.send(b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: 3000\r\n\r\n{")
    idle.send(b"GET /ready HTTP/1.1\r\nhost: x\r\n\r\n")
    assert (await idle.head()).startswith(b"HTTP/1.1 200 ")
    stop = asyncio.create_task(run.server.stop(HANG_S))
    for response in await asyncio.gather(*held):
        assert response.status_code == 503
        assert response.json()["error"]["code"] == "server_stopping"
        assert 1 <= int(response.headers["retry-after"]) <= 30
    assert not stop.done()
    with pytest.raises(ConnectionRefusedError):
        await RawClient.connect(run.port)
    late = {"program_id": "late", **messages("x" * 2000)}
    content = json.dumps(late).encode()
    half.send(b" " * (3000 - len(content)) + content[1:])  # one that was on its way is held no more either
    assert (await half.head()).startswith(b"HTTP/1.1 503 ")
    await streaming.close()
    gate.open()
    assert (await flying).status_code == 200
    await stop
    assert len(engine.seen) == 1
    assert run.scheduler.open_requests == 0
    run.scheduler.check()


@pytest.mark.parametrize(
    ("path", "told"),
    [
        (CHAT, b'"code":"server_stopping"'),
        ("/v1/responses", b'"code":"server_stopping"'),
        ("/v1/messages", b'"type":"api_error"'),
    ],
)
async def test_a_stream_that_is_not_done_within_the_grace_is_told_so_and_ends(engine, serve, raw, path, told):
    engine.reply = gate = Gate(first=delta("begun"))
    run = await serve(engine)
    client = await raw(run.port)
    client.post(path, messages(program_id="p", stream=True, input="x"))
    await client.until(b"begun")
    await run.server.stop(0.1)
    rest = await client.rest()
    assert b"data: " in rest
    assert told in rest
    assert rest.endswith(b"\n\n\r\n0\r\n\r\n"), "a whole event, and the end of the stream"
    await soon(lambda: engine.broken_off == 1)
    assert run.scheduler.open_requests == 0
    gate.open()


@pytest.mark.parametrize("stream", [False, True])
async def test_what_has_no_answer_within_the_grace_may_be_sent_again(engine, serve, raw, stream):
    engine.reply = gate = Gate()
    run = await serve(engine)
    client = await raw(run.port)
    client.post(CHAT, messages(program_id="p", stream=stream))
    await soon(lambda: gate.arrived == 1)
    await run.server.stop(0.1)
    answer = await client.rest()
    assert answer.startswith(b"HTTP/1.1 503 ")
    assert b"server_stopping" in answer
    assert b"retry-after: " in answer
    assert run.scheduler.open_requests == 0
    gate.open()


async def test_an_engine_that_fails_while_the_server_stops_is_not_waited_for(engine, serve):
    engine.reply = gate = Gate()
    run = await serve(engine, poll_interval_s=600.0)
    flying = run.asking("p")
    await soon(lambda: gate.arrived == 1)
    stop = asyncio.create_task(run.server.stop(HANG_S))
    await soon(run.runtime.stopping.is_set)
    await engine.stop()
    response = await flying
    assert (response.status_code, response.json()["error"]["code"]) == (503, "server_stopping")
    await stop


class Process:
    """A server in a process of its own."""

    def __init__(self, process: asyncio.subprocess.Process, lines: list[str]) -> None:
        self.process = process
        self.lines = lines
        self.port = int(lines[0].split("//127.0.0.1:")[1].split()[0]) if lines else 0

    def send(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    async def ended(self) -> int:
        async with asyncio.timeout(HANG_S):
            return await self.process.wait()


@pytest.fixture
async def start(engine_factory, tmp_path):
    """Start server processes: ``await start(engine, **settings)``."""
    started: list[asyncio.subprocess.Process] = []

    async def run(*engines, lines: int | None = None, **settings) -> Process:
        patient = {"poll_timeout_s": HANG_S / 2, "startup_wait_s": HANG_S}
        config = {"backends": [e.url for e in engines], "port": 0, "trace": str(tmp_path / "trace.jsonl"), **patient}
        config |= settings
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, str(SCRIPT), json.dumps(config)), stdout=-1, stderr=-1
        )
        started.append(process)
        async with asyncio.timeout(2 * HANG_S):
            said = [
                (await process.stdout.readline()).decode() for _ in range(1 + len(engines) if lines is None else lines)
            ]
        return Process(process, said)

    yield run
    for process in started:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()
        process._transport.close()


async def ask(port: int, program: str, text: str = "hello", **fields) -> httpx.Response:
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=HANG_S) as client:
        return await client.post(CHAT, json=messages(text, program_id=program, **fields))


async def in_flight_and_held(engine, server) -> tuple[asyncio.Task, RawClient, asyncio.Task]:
    """Bring one request before its first byte, one into its stream, and one into the queue."""
    before = asyncio.create_task(ask(server.port, "before", text_of(300)))
    await soon(lambda: engine.open == 1)
    stream = await RawClient.connect(server.port)
    stream.post(CHAT, messages(text_of(300), program_id="stream", stream=True))
    await stream.until(b"begun")
    held = asyncio.create_task(ask(server.port, "held", text_of(900)))
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{server.port}", timeout=HANG_S) as client:
        async with asyncio.timeout(HANG_S):
            while (await client.get("/scheduling")).json()["waiting"] != 1:
                await asyncio.sleep(0.01)
    return before, stream, held


def by_kind(gate_before: Gate, gate_stream: Gate):
    async def reply(engine, request, respond):
        chosen = gate_stream if json.loads(request.body).get("stream") else gate_before
        await chosen(engine, request, respond)

    return reply


@pytest.fixture
async def busy(engine_factory):
    """An engine that holds its answers back, in a pool that two programs fill."""
    engine = await engine_factory(capacity_tokens=1000)
    engine.gates = Gate(), Gate(first=delta("begun"))
    engine.reply = by_kind(*engine.gates)
    return engine


SLOW = {"growth_reserve_tokens": 0, "decay_base": 1.0, "shutdown_grace_s": HANG_S}


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_one_signal_stops_the_process_gracefully(busy, start, tmp_path, number):
    server = await start(busy, **SLOW)
    assert server.lines[1].strip() == f"{busy.url}: ready"
    before, stream, held = await in_flight_and_held(busy, server)
    server.send(number)
    assert (await held).status_code == 503
    for gate in busy.gates:
        gate.open()
    assert (await before).status_code == 200
    assert (await stream.rest()).endswith(b"0\r\n\r\n")
    await stream.close()
    assert await server.ended() == 0
    assert busy.broken_off == 0
    audit(tmp_path / "trace.jsonl")


async def test_a_second_signal_does_not_wait(busy, start, tmp_path):
    server = await start(busy, **SLOW)
    before, stream, held = await in_flight_and_held(busy, server)
    server.send(signal.SIGTERM)
    assert (await held).status_code == 503
    server.send(signal.SIGTERM)
    assert await server.ended() == 0
    await soon(lambda: busy.open == 0)
    assert busy.broken_off == 2
    outcome = (await asyncio.gather(before, return_exceptions=True))[0]
    assert isinstance(outcome, httpx.TransportError) or outcome.status_code == 503
    await stream.close()
    assert b"Traceback" not in await server.process.stderr.read()
    audit(tmp_path / "trace.jsonl")


async def test_a_signal_while_the_server_still_waits_for_its_engines(engine, start):
    await engine.stop()
    server = await start(engine, lines=0, startup_wait_s=600.0)
    await engine.start()
    engine.answers_polls.clear()
    await soon(lambda: engine.polls > 0)  # it is up, its signal handlers are set, and it waits for an answer
    server.send(signal.SIGTERM)
    assert await server.ended() == 0
    assert await server.process.stderr.read() == b""


async def test_killed_in_the_middle_the_engine_is_left_alone_and_the_trace_can_be_read(busy, start, tmp_path):
    """What had been written by then is whole lines, and replays; the last fifth of a second may be missing."""
    server = await start(busy, **SLOW)
    before, stream, held = await in_flight_and_held(busy, server)
    trace = tmp_path / "trace.jsonl"
    await soon(lambda: trace.read_text().count("RequestArrived") == 3)
    server.send(signal.SIGKILL)
    assert await server.ended() == -signal.SIGKILL
    await soon(lambda: busy.open == 0)
    assert busy.broken_off == 2
    outcomes = await asyncio.gather(before, held, return_exceptions=True)
    assert all(isinstance(outcome, httpx.TransportError) for outcome in outcomes)
    await stream.close()
    text = trace.read_text()
    assert text.endswith("}\n")
    assert all(json.loads(line) for line in text.splitlines())
    assert [mismatch for mismatch in replay(text.splitlines()) if mismatch is not None] == []


async def test_a_server_that_cannot_start_says_why_in_one_line(engine, start):
    server = await start(engine, lines=0, port=engine.port)
    assert await server.ended() == 2
    said = (await server.process.stderr.read()).decode()
    assert said.startswith(f"cannot listen on 127.0.0.1:{engine.port}")
    assert said.count("\n") == 1


async def test_many_files_may_be_open(engine, start):
    server = await start(engine)
    soft, hard = resource.prlimit(server.process.pid, resource.RLIMIT_NOFILE)
    assert soft == hard
