"""Metrics and the stream of decisions: they say what happened."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families
from scripted_engine import Gate
from server_tools import CHAT, messages, soon, text_of

from thunderagent_core.server.feed import MAX_UNREAD_EVENTS


async def samples(run) -> dict[tuple[str, ...], float]:
    response = await run.client.get("/metrics")
    assert response.headers["content-type"].startswith("text/plain; version=0.0.4")
    found: dict[tuple[str, ...], float] = {}
    for family in text_string_to_metric_families(response.text):
        assert family.documentation
        for sample in family.samples:
            key = (sample.name, *(value for _, value in sorted(sample.labels.items())))
            assert key not in found, "each series is there once"
            found[key] = sample.value
    return found


async def test_metrics_say_what_happened(engine_factory, serve, raw):
    engine = await engine_factory(capacity_tokens=1000)
    engine.reply = gate = Gate()
    run = await serve(engine, decay_base=1.0)
    first = run.asking("a", text_of(600))
    await soon(lambda: gate.arrived == 1)
    second = run.asking("b", text_of(600))
    await soon(lambda: run.held() == 1)
    gone = await raw(run.port)
    gone.post(CHAT, messages(text_of(600), program_id="c"))
    await soon(lambda: run.held() == 2)
    await gone.close()
    await soon(lambda: run.held() == 1)
    too_large = await run.chat("d", text_of(5000))
    assert too_large.status_code == 400
    found = await samples(run)
    assert found["thunderagent_programs", "reasoning", "active"] == 1
    assert found["thunderagent_programs", "reasoning", "paused"] == 1
    assert found["thunderagent_programs", "acting", "paused"] == 1
    assert found["thunderagent_waiting_programs",] == 1
    assert found["thunderagent_open_requests",] == 2
    assert found["thunderagent_requests_total", "disconnected"] == 1
    assert found["thunderagent_requests_total", "refused"] == 1
    assert found["thunderagent_decisions_total", "Forward"] == 1
    assert found["thunderagent_decisions_total", "Refuse"] == 1
    assert found["thunderagent_backend_healthy", engine.id] == 1
    assert found["thunderagent_backend_capacity_tokens", engine.id] == 1000
    assert found["thunderagent_backend_programs", engine.id] == 1
    assert found["thunderagent_backend_in_flight", engine.id] == 1
    assert 600 <= found["thunderagent_backend_demand_tokens", engine.id] < 650
    gate.open()
    await first
    await run.release("a")
    await second
    await run.release("b")
    await run.idle()
    found = await samples(run)
    assert found["thunderagent_requests_total", "completed"] == 2
    assert found["thunderagent_decisions_total", "Reclaim"] == 2
    assert found["thunderagent_open_requests",] == 0
    await soon(lambda: run.server.fleet.engines[engine.id].sample.prompt_tokens == engine.prompt_tokens)
    found = await samples(run)
    assert found["thunderagent_engine_prompt_tokens_total", engine.id] == engine.prompt_tokens
    assert found["thunderagent_engine_cached_tokens_total", engine.id] == engine.prompt_tokens // 2
    assert found["thunderagent_engine_preemptions_total", engine.id] == 0
    await engine.stop()
    await run.healthy(0)
    assert (await samples(run))["thunderagent_backend_healthy", engine.id] == 0


class Listener:
    """Reads ``/events`` as a client would."""

    def __init__(self, client: Any) -> None:
        self.client = client
        self.events: list[dict[str, Any]] = []
        self.task = asyncio.create_task(self._read())

    async def _read(self) -> None:
        while line := await self.client.reader.readline():
            if line.startswith(b"data: "):
                self.events.append(json.loads(line[6:]))
            elif line.startswith(b"event: "):
                self.name = line[7:].strip().decode()

    def kinds(self) -> list[str]:
        return [event["type"] for event in self.events]


async def listen(run, raw) -> Listener:
    client = await raw(run.port)
    client.send(b"GET /events HTTP/1.1\r\nhost: localhost\r\n\r\n")
    head = await client.head()
    assert b"content-type: text/event-stream" in head
    await client.until(b"\n\n")  # the greeting: from here on every decision is sent
    return Listener(client)


async def test_events_tell_each_decision_with_its_reason(engine, serve, raw):
    run = await serve(engine)
    listener, other = await listen(run, raw), await listen(run, raw)
    await run.chat("p")
    await run.client.post("/programs/p/events", json={"type": "idle"})
    await run.release("p")
    await soon(lambda: len(listener.events) == 4 and len(other.events) == 4)
    assert listener.kinds() == ["Restore", "Forward", "Pause", "Reclaim"]
    assert other.events == listener.events
    assert [event["program_id"] for event in listener.events] == ["p"] * 4
    reasons = ["new program", "its program is placed", "program idle", "released"]
    assert [event["reason"] for event in listener.events] == reasons
    assert listener.events[0]["backend_id"] == engine.id
    times = [event["now"] for event in listener.events]
    assert times == sorted(times)
    assert listener.name == "reclaim"
    listener.task.cancel()
    other.task.cancel()


async def test_a_listener_that_goes_leaves_nothing_behind(engine, serve, raw):
    run = await serve(engine)
    before = len(run.runtime.listeners)
    listener = await listen(run, raw)
    assert len(run.runtime.listeners) == before + 1
    listener.task.cancel()
    await listener.client.close()
    await soon(lambda: len(run.runtime.listeners) == before)


async def test_a_listener_that_reads_too_slowly_is_cut_off(engine, serve, raw):
    from thunderagent_core.scheduling.decisions import Pause, Reason

    run = await serve(engine)
    before = len(run.runtime.listeners)
    client = await raw(run.port)
    client.send(b"GET /events HTTP/1.1\r\nhost: localhost\r\n\r\n")
    await client.until(b"\n\n")
    [listener] = [each for each in run.runtime.listeners if getattr(each, "__name__", "") == "_listen"]
    decision = Pause("p", "b", Reason.IDLE)
    for _ in range(MAX_UNREAD_EVENTS + 1):  # all at once: even a quick reader has no turn in between
        listener(0.0, decision)
    await soon(lambda: len(run.runtime.listeners) == before)
    rest = await client.rest()
    assert not rest.endswith(b"0\r\n\r\n"), "it must not look like a complete stream"
    assert (await run.chat("p")).status_code == 200


async def test_a_listener_that_reads_nothing_is_cut_off(engine, serve, raw):
    from thunderagent_core.scheduling.decisions import Pause, Reason

    run = await serve(engine)
    before = len(run.runtime.listeners)
    client = await raw(run.port)
    client.writer.transport.pause_reading()
    client.send(b"GET /events HTTP/1.1\r\nhost: localhost\r\n\r\n")
    await soon(lambda: len(run.runtime.listeners) == before + 1)
    [listener] = [each for each in run.runtime.listeners if getattr(each, "__name__", "") == "_listen"]
    decision = Pause("p" * 200, "b", Reason.IDLE)
    async with asyncio.timeout(60):
        while len(run.runtime.listeners) > before:
            for _ in range(500):
                listener(0.0, decision)
            await asyncio.sleep(0)


@pytest.mark.parametrize("count", [3])
async def test_the_stream_of_events_ends_with_the_server(engine, serve, raw, count):
    run = await serve(engine, shutdown_grace_s=600.0)
    listeners = [await listen(run, raw) for _ in range(count)]
    async with asyncio.timeout(120):  # they do not use up the grace
        await run.server.stop(600.0)
    for listener in listeners:
        await listener.task
