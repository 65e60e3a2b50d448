"""What vLLM refuses is refused in its words; nothing is a 500."""

from __future__ import annotations

import pytest
from simulated_helpers import chat

CHAT = "/v1/chat/completions"
TOOL = {"type": "function", "function": {"name": "run", "parameters": {"type": "object"}}}


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        (CHAT, {"model": "sim"}, "body.messages"),
        (CHAT, chat() | {"messages": "hello"}, "body.messages"),
        (CHAT, chat() | {"messages": []}, "body.messages"),
        (CHAT, chat() | {"messages": ["hello"]}, "body.messages.0"),
        (CHAT, chat() | {"messages": [{"content": "x"}]}, "body.messages.0.role"),
        (CHAT, chat() | {"messages": [{"role": "user", "content": 3}]}, "body.messages.0.content"),
        (CHAT, chat(max_tokens=0), "body.max_tokens"),
        (CHAT, chat(max_tokens="8"), "body.max_tokens"),
        (CHAT, chat(max_tokens=True), "body.max_tokens"),
        (CHAT, chat(max_completion_tokens=1.5), "body.max_completion_tokens"),
        (CHAT, chat(n=2), "n"),
        (CHAT, chat(stop=[1]), "body.stop"),
        (CHAT, chat(stream="yes"), "body.stream"),
        (CHAT, chat(stream_options={"include_usage": True}), "stream_options"),
        (CHAT, chat(tools=[]), "tools"),
        (CHAT, chat(tools=[{"type": "function"}]), "body.tools.0.function"),
        (CHAT, chat(tool_choice="required"), "tool_choice"),
        (CHAT, chat(tools=[TOOL], tool_choice="always"), "body.tool_choice"),
        (CHAT, chat(tools=[TOOL], tool_choice={"function": {"name": "walk"}}), "tool_choice"),
        (
            CHAT,
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]},
            "messages.0.content.0.type",
        ),
        ("/v1/completions", {"model": "sim"}, "body.prompt"),
        ("/v1/completions", {"prompt": []}, "body.prompt"),
        ("/v1/completions", {"prompt": ["a", "b"]}, "prompt"),
        ("/v1/completions", {"prompt": [1 << 70]}, "body.prompt"),
        ("/v1/responses", {"model": "sim"}, "body.input"),
        ("/v1/responses", {"input": []}, "body.input"),
        ("/v1/responses", {"input": [{"type": "video"}]}, "input.0.type"),
        ("/tokenize", {}, "body.prompt"),
        ("/detokenize", {"tokens": [1 << 60]}, "body.tokens"),
    ],
)
async def test_malformed_requests_are_400_and_name_the_field(client, path, body, param):
    answer = await client.post(path, json=body)
    assert answer.status_code == 400
    error = answer.json()["error"]
    assert (error["param"], error["code"]) == (param, 400)


@pytest.mark.parametrize(
    "body",
    [
        {"model": "sim", "max_tokens": 8},
        {"model": "sim", "messages": chat()["messages"]},
        chat() | {"messages": [{"role": "user"}]},
        chat(tools=[{"description": "no name"}]),
    ],
)
async def test_errors_of_the_anthropic_api_have_its_shape(client, body):
    answer = await client.post("/v1/messages", json=body)
    assert answer.status_code == 400
    assert answer.json()["type"] == "error"
    assert answer.json()["error"].keys() == {"type", "message"}


@pytest.mark.parametrize("path", [CHAT, "/v1/completions", "/v1/responses", "/v1/messages", "/tokenize"])
@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"3", b"\xff", b"[" * 100_000])
async def test_what_is_no_json_object_is_400(client, path, content):
    answer = await client.post(path, content=content, headers={"content-type": "application/json"})
    assert answer.status_code == 400


async def test_another_content_type_is_400_as_in_vllm(client):
    answer = await client.post(CHAT, content=b"{}", headers={"content-type": "text/plain"})
    assert answer.status_code == 400
    assert "Only 'application/json' is allowed" in answer.json()["error"]["message"]


async def test_an_unknown_model_is_404(client):
    answer = await client.post(CHAT, json=chat(model="nobody"))
    assert answer.status_code == 404
    assert answer.json() == {
        "error": {
            "message": "The model `nobody` does not exist. Valid aliases: sim.",
            "type": "NotFoundError",
            "param": "model",
            "code": 404,
        }
    }
    answer = await client.post("/v1/messages", json=chat(model="nobody"))
    assert (answer.status_code, answer.json()["error"]["type"]) == (404, "NotFoundError")


async def test_a_prompt_over_the_context_is_400(client):
    answer = await client.post(CHAT, json=chat("word " * 8000))
    assert answer.status_code == 400
    assert "maximum context length is 8192 tokens" in answer.json()["error"]["message"]


async def test_stored_responses_do_not_exist(client):
    answer = await client.post("/v1/responses", json={"input": "x", "previous_response_id": "resp_1"})
    assert answer.status_code == 404


async def test_unknown_paths_and_methods(client):
    assert (await client.get("/nowhere")).status_code == 404
    assert (await client.get(CHAT)).status_code == 405
    assert (await client.post("/health")).status_code == 405
