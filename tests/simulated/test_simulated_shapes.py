"""Answers have the shape of those recorded from a real vLLM 0.32 (tests/recorded)."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families
from simulated_helpers import sse

RECORDED = Path(__file__).parent.parent / "recorded" / "vllm-0.32"
INDEX = {entry["file"]: entry for entry in json.loads((RECORDED / "index.json").read_text())}

# Fields of vLLM that are null there unless some feature is on which is not modelled, and lists for many turns.
NOT_MODELLED = {
    "routed_experts",
    "prompt_logprobs",
    "prompt_token_ids",
    "prompt_text",
    "kv_transfer_params",
    "ec_transfer_params",
    "metrics",
    "prompt",
    "max_tool_calls",
    "top_logprobs",
    "presence_penalty",
    "frequency_penalty",
    "input_messages",
    "output_messages",
    "input_tokens_per_turn",
    "cached_tokens_per_turn",
    "tool_output_tokens",
    "output_tokens_per_turn",
    "tool_output_tokens_per_turn",
    "permission",
}
WHOLE = ["chat.json", "chat_cached.json", "chat_tool_call.json", "completion.json", "responses.json", "messages.json"]
ERRORS = ["error_unknown_model.json", "error_unknown_model_messages.json", "error_no_messages.json"]
ERRORS += ["error_messages_not_a_list.json", "error_empty_tools.json"]
STREAMS = ["chat_stream.sse", "chat_stream_usage.sse", "chat_stream_continuous_usage.sse", "completion_stream.sse"]
STREAMS += ["completion_stream_usage.sse", "messages_stream.sse", "responses_stream.sse", "chat_tool_call_stream.sse"]


def paths(value, here=""):
    """All places in a JSON value, with lists reduced to their first element."""
    found = {here}
    if isinstance(value, dict):
        for key, inner in value.items():
            if key not in NOT_MODELLED:
                found |= paths(inner, f"{here}.{key}")
    elif isinstance(value, list) and value:
        found |= paths(value[0], f"{here}[]")
    return found


async def same_request(client, file):
    entry = INDEX[file]
    body = {key: value for key, value in entry["body"].items() if key != "temperature"}
    if body.get("model") == "smollm2":
        body["model"] = "sim"
    return entry, await client.request(entry["method"], entry["path"], json=body or None)


@pytest.mark.parametrize("file", WHOLE)
async def test_whole_answers(client, file):
    entry, answer = await same_request(client, file)
    recorded = json.loads((RECORDED / file).read_text())
    assert (answer.status_code, answer.headers["content-type"]) == (entry["status"], entry["content_type"])
    ours = answer.json()
    if file == "responses.json":
        recorded["metadata"] = {"simulated": ""}
        recorded["incomplete_details"] = {"reason": ""}  # this answer uses up its tokens
    assert paths(ours) == paths(recorded)


@pytest.mark.parametrize("file", ERRORS)
async def test_errors(client, file):
    entry, answer = await same_request(client, file)
    recorded = json.loads((RECORDED / file).read_text())
    assert answer.status_code == entry["status"]
    assert paths(answer.json()) == paths(recorded)
    for key in ("type", "param", "code"):
        assert answer.json()["error"].get(key) == recorded["error"].get(key)


@pytest.mark.parametrize("file", STREAMS)
async def test_streams(client, file):
    entry, answer = await same_request(client, file)
    assert (answer.status_code, answer.headers["content-type"]) == (entry["status"], entry["content_type"])
    recorded = shapes(sse((RECORDED / file).read_text()))
    ours = shapes(sse(answer.text))
    if file == "responses_stream.sse":
        recorded = [(name, found - {".response.incomplete_details"}) for name, found in recorded]
        ours = [(name, {p for p in found if "metadata." not in p and "incomplete" not in p}) for name, found in ours]
    if INDEX[file]["path"] == "/v1/chat/completions":
        # The recorded answers end by themselves, ours use up their tokens: the end comes with the last of them.
        recorded = [(name, found - {".choices[].delta.content"}) for name, found in recorded]
        ours = [(name, found - {".choices[].delta.content"}) for name, found in ours]
    assert ours == recorded


def shapes(events):
    """The shapes of a stream's events, equal neighbours once."""
    found = []
    for name, data in events:
        shape = (name, paths(data))
        if not found or found[-1] != shape:
            found.append(shape)
    return found


async def test_models_and_load(client):
    for file in ("models.json", "load.json"):
        _, answer = await same_request(client, file)
        assert paths(answer.json()) == paths(json.loads((RECORDED / file).read_text()))


async def test_metrics_are_a_part_of_vllms_with_the_same_types_and_labels(client):
    def families(text):
        return {family.name: family for family in text_string_to_metric_families(text)}

    recorded = families((RECORDED / "metrics.txt").read_text())
    for name, family in families((await client.get("/metrics")).text).items():
        assert family.type == recorded[name].type
        for found in family.samples:
            like = next(other for other in recorded[name].samples if other.name == found.name)
            assert found.labels.keys() - {"simulated"} <= like.labels.keys()
