"""Accidents on demand, and scripted ones."""

from __future__ import annotations

import asyncio

import httpx
import pytest
from simulated_helpers import chat, eventually, sse

from thunderagent_core.engines.simulated.engine import SimulatedEngine
from thunderagent_core.engines.simulated.faults import FaultSwitch
from thunderagent_core.engines.simulated.script import Reply, Rule, Script, ScriptedCall

CHAT = "/v1/chat/completions"
TOOL = {
    "type": "function",
    "function": {
        "name": "bash",
        "parameters": {"properties": {"command": {"type": "string"}}, "required": ["command"]},
    },
}
CALL = Reply(text="Let me look.", tool_calls=(ScriptedCall("bash", {"command": "ls -l /tmp"}), ScriptedCall("done")))


def scripted(*replies, **conditions):
    return Script((Rule(replies=replies, **conditions),))


@pytest.fixture
def ask(settings):
    async def ask(script, path, body):
        async with (
            SimulatedEngine(settings(), script) as engine,
            httpx.AsyncClient(base_url=engine.url, timeout=60) as client,
        ):
            answer = await client.post(path, json=body)
            engine.model.check()
            return answer

    return ask


async def test_scripted_tool_calls_in_a_chat(ask):
    choice = (await ask(scripted(CALL), CHAT, chat(max_tokens=500))).json()["choices"][0]
    assert (choice["message"]["content"], choice["finish_reason"]) == ("Let me look.", "tool_calls")
    functions = [call["function"] for call in choice["message"]["tool_calls"]]
    assert functions == [
        {"name": "bash", "arguments": '{"command": "ls -l /tmp"}'},
        {"name": "done", "arguments": "{}"},
    ]


async def test_scripted_tool_calls_in_a_chat_stream(ask):
    events = sse((await ask(scripted(CALL), CHAT, chat(max_tokens=500, stream=True))).text)
    choices = [data["choices"][0] for _, data in events[:-1]]
    assert "".join(choice["delta"].get("content") or "" for choice in choices) == "Let me look."
    calls = {}
    for choice in choices:
        for call in choice["delta"].get("tool_calls", []):
            made = calls.setdefault(call["index"], {"id": call.get("id"), "name": "", "arguments": ""})
            made["name"] += call["function"].get("name", "")
            made["arguments"] += call["function"].get("arguments", "")
    assert [(call["name"], call["arguments"]) for call in calls.values()] == [
        ("bash", '{"command": "ls -l /tmp"}'),
        ("done", "{}"),
    ]
    assert all(call["id"].startswith("chatcmpl-tool-") for call in calls.values())
    assert choices[-1]["finish_reason"] == "tool_calls"


async def test_scripted_tool_calls_in_messages(ask):
    whole = (await ask(scripted(CALL), "/v1/messages", chat(max_tokens=500))).json()
    assert whole["stop_reason"] == "tool_use"
    assert [block["type"] for block in whole["content"]] == ["text", "tool_use", "tool_use"]
    assert whole["content"][1]["input"] == {"command": "ls -l /tmp"}

    events = sse((await ask(scripted(CALL), "/v1/messages", chat(max_tokens=500, stream=True))).text)
    starts = [data["content_block"]["type"] for name, data in events if name == "content_block_start"]
    stops = [data["index"] for name, data in events if name == "content_block_stop"]
    assert (starts, stops) == (["text", "tool_use", "tool_use"], [0, 1, 2])
    json_deltas = [data for _, data in events if data.get("delta", {}).get("type") == "input_json_delta"]
    first = "".join(data["delta"]["partial_json"] for data in json_deltas if data["index"] == 1)
    assert first == '{"command": "ls -l /tmp"}'
    assert events[-2][1]["delta"]["stop_reason"] == "tool_use"


async def test_scripted_tool_calls_in_responses(ask):
    body = {"input": "Hello", "stream": True}
    events = sse((await ask(scripted(CALL), "/v1/responses", body)).text)
    output = events[-1][1]["response"]["output"]
    assert [item["type"] for item in output] == ["message", "function_call", "function_call"]
    assert output[1]["arguments"] == '{"command": "ls -l /tmp"}'
    done = [data["item"] for name, data in events if name == "response.output_item.done"]
    assert done == output


@pytest.mark.parametrize(
    ("path", "first", "after"),
    [
        (
            CHAT,
            {"messages": [{"role": "user", "content": "word " * 40}]},
            lambda answer: {
                "messages": [
                    {"role": "user", "content": "word " * 40},
                    answer["choices"][0]["message"],
                    {"role": "tool", "tool_call_id": "x", "content": "a.py"},
                ]
            },
        ),
        (
            "/v1/messages",
            {"messages": [{"role": "user", "content": "word " * 40}], "max_tokens": 500},
            lambda answer: {
                "messages": [
                    {"role": "user", "content": "word " * 40},
                    {"role": "assistant", "content": answer["content"]},
                    {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "x", "content": "a.py"}]},
                ],
                "max_tokens": 500,
            },
        ),
        (
            "/v1/responses",
            {"input": "word " * 40},
            lambda answer: {
                "input": [
                    {"role": "user", "content": "word " * 40},
                    *answer["output"],
                    {"type": "function_call_output", "call_id": "x", "output": "a.py"},
                ]
            },
        ),
    ],
)
async def test_a_turn_with_tool_calls_is_the_prefix_of_the_next(settings, path, first, after):
    script = scripted(CALL, Reply(text="Done."))
    async with SimulatedEngine(settings(block_tokens=4), script) as engine:
        async with httpx.AsyncClient(base_url=engine.url, timeout=60) as client:
            answer = (await client.post(path, json=first)).json()
            before = engine.model.statistics.prefilled_tokens + engine.model.statistics.generation_tokens
            await client.post(path, json=after(answer))
        # Everything but the answer's last token was computed, and whole blocks of it are found again.
        assert engine.model.statistics.prefix_cache_hits == (before - 1) // 4 * 4


async def test_required_tools_are_called_without_a_script(client):
    body = chat(tools=[TOOL], tool_choice="required", max_tokens=500)
    choice = (await client.post(CHAT, json=body)).json()["choices"][0]
    assert choice["message"]["tool_calls"][0]["function"] == {"name": "bash", "arguments": '{"command": "simulated"}'}
    assert choice["finish_reason"] == "tool_calls"
    named = body | {"tool_choice": {"type": "function", "function": {"name": "bash"}}}
    assert (await client.post(CHAT, json=named)).json()["choices"][0]["finish_reason"] == "stop"
    tool = {"name": "bash", "input_schema": {}}
    body = chat(tools=[tool], tool_choice={"type": "any"}, max_tokens=500)
    assert (await client.post("/v1/messages", json=body)).json()["stop_reason"] == "tool_use"
    body = {"input": "x", "tools": [{"type": "function", "name": "bash"}], "tool_choice": "required"}
    assert (await client.post("/v1/responses", json=body)).json()["output"][0]["name"] == "bash"


async def test_scripted_errors_come_before_the_first_byte(ask):
    for stream in (False, True):
        answer = await ask(scripted(Reply(status=503, message="busy")), CHAT, chat(stream=stream))
        assert (answer.status_code, answer.json()["error"]["message"]) == (503, "busy")


async def test_a_script_may_change_while_the_engine_runs(client):
    script = {"rules": [{"replies": [{"text": "Hi.", "delay_s": 1}]}]}
    assert (await client.post("/simulate/script", json=script)).json() == {"rules": 1}
    answer = await client.post(CHAT, json=chat())
    assert answer.json()["choices"][0]["message"]["content"] == "Hi."
    assert (await client.post("/simulate/script", json={"rule": []})).status_code == 400


async def read_lines(client, received):
    async with client.stream("POST", CHAT, json=chat(stream=True)) as answer:
        async for line in answer.aiter_lines():
            received.append(line)


@pytest.mark.parametrize("tokens", [1, 3])
async def test_an_engine_that_dies_mid_stream_breaks_the_connection(engine, client, tokens):
    await client.post("/simulate/faults", json={"die_after_tokens": tokens, "deaths": 1})
    received: list[str] = []
    with pytest.raises(httpx.RemoteProtocolError):
        await read_lines(client, received)
    assert len(list(filter(None, received))) == tokens + 1, "the role and then the tokens"
    assert engine.model.statistics.finished == {"abort": 1}
    assert (await client.post(CHAT, json=chat(stream=True))).text.endswith("data: [DONE]\n\n")


@pytest.mark.parametrize(("tokens", "stream"), [(0, False), (0, True), (3, False)])
async def test_an_engine_that_dies_before_the_first_byte(client, tokens, stream):
    await client.post("/simulate/faults", json={"die_after_tokens": tokens, "deaths": 1})
    with pytest.raises((httpx.RemoteProtocolError, httpx.ReadError)):
        await client.post(CHAT, json=chat(stream=stream))
    assert (await client.post(CHAT, json=chat(stream=stream))).status_code == 200


async def test_failures_are_counted_down(client):
    await client.post("/simulate/faults", json={"generation_status": 500, "generation_failures": 2})
    statuses = [(await client.post(CHAT, json=chat())).status_code for _ in range(3)]
    assert statuses == [500, 500, 200]


async def test_bad_health_and_metrics(client):
    await client.post("/simulate/faults", json={"unhealthy": True, "metrics_status": 500})
    assert (await client.get("/health")).status_code == 503
    assert (await client.get("/metrics")).status_code == 500
    await client.delete("/simulate/faults")
    assert (await client.get("/health")).status_code == 200
    assert (await client.get("/metrics")).status_code == 200


@pytest.mark.parametrize(
    ("fault", "question"),
    [
        ("hang_metrics", {"method": "GET", "url": "/metrics"}),
        ("hang_health", {"method": "GET", "url": "/health"}),
        ("hang_generation", {"method": "POST", "url": CHAT, "json": chat()}),
    ],
)
async def test_a_hanging_route_goes_on_when_it_is_told_to(client, fault, question, monkeypatch):
    hangs, hang_while = asyncio.Event(), FaultSwitch.hang_while

    async def noted(switch, condition):
        if condition(switch.faults):
            hangs.set()
        await hang_while(switch, condition)

    monkeypatch.setattr(FaultSwitch, "hang_while", noted)
    faults = (await client.post("/simulate/faults", json={fault: True})).json()
    assert faults[fault] is True
    asking = asyncio.create_task(client.request(**question))
    await hangs.wait()
    assert (await client.get("/version")).status_code == 200, "only that route hangs"
    assert not asking.done()
    await client.delete("/simulate/faults")
    assert (await asking).status_code == 200


async def test_unknown_faults_are_refused(client):
    answer = await client.post("/simulate/faults", json={"explode": True})
    assert answer.status_code == 400
    assert "explode" in answer.json()["error"]["message"]


async def test_stopping_at_once_looks_like_a_crash(settings):
    engine = SimulatedEngine(settings(speed=1.0))
    await engine.start()
    async with httpx.AsyncClient(base_url=engine.url, timeout=60) as client:
        asking = asyncio.create_task(client.post(CHAT, json=chat(max_tokens=4000)))
        await eventually(lambda: engine.model.num_running)
        await engine.stop()
        with pytest.raises((httpx.RemoteProtocolError, httpx.ReadError)):
            await asking
        with pytest.raises(httpx.ConnectError):
            await client.get("/health")
