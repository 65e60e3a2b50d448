"""Record what a real vLLM answers, for the tests that must run without one (``tests/recorded``).

``python -m benchmarks.testbed record --url http://127.0.0.1:8000 --out tests/recorded/vllm-0.32``

Each answer is stored as it came, byte for byte, except that the path of the model's directory is
replaced; ``index.json`` says which request gave it, with its status and content type.
"""

from __future__ import annotations

import json
import re
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import httpx

from benchmarks.testbed.record_events import record_events

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

JsonObject = dict[str, Any]

QUESTION: JsonObject = {"role": "user", "content": "What is the capital of France? Answer in one sentence."}
TOOL: JsonObject = {
    "type": "function",
    "function": {
        "name": "run",
        "description": "Run a shell command",
        "parameters": {"type": "object", "properties": {"command": {"type": "string"}}, "required": ["command"]},
    },
}
USAGE: JsonObject = {"stream": True, "stream_options": {"include_usage": True}}
CONTINUOUS: JsonObject = {
    "stream": True,
    "stream_options": {"include_usage": True, "continuous_usage_stats": True},
}


@dataclass(frozen=True)
class Exchange:
    """One request whose answer is worth keeping; ``file`` is where the answer's body goes."""

    file: str
    method: str
    path: str
    body: JsonObject = field(default_factory=dict)


def exchanges(model: str) -> Iterator[Exchange]:
    """Yield the requests in the order in which they are made: the first prompt is cold, its repetition cached."""
    yield from _chat(model)
    yield from _other_routes(model)
    yield from _refusals(model)
    for file, path in (
        ("models.json", "/v1/models"),
        ("load.json", "/load"),
        ("version.json", "/version"),
        ("kv_event_sources.json", "/kv_event_sources"),
        ("metrics.txt", "/metrics"),
    ):
        yield Exchange(file, "GET", path)


def _chat(model: str) -> Iterator[Exchange]:
    path = "/v1/chat/completions"
    base: JsonObject = {"model": model, "messages": [QUESTION], "max_tokens": 12, "temperature": 0}
    tool = base | {"max_tokens": 60, "tools": [TOOL], "tool_choice": "required"}
    yield Exchange("chat.json", "POST", path, base)
    yield Exchange("chat_cached.json", "POST", path, base)
    yield Exchange("chat_stream.sse", "POST", path, base | {"stream": True})
    yield Exchange("chat_stream_usage.sse", "POST", path, base | USAGE)
    yield Exchange("chat_stream_continuous_usage.sse", "POST", path, base | CONTINUOUS)
    yield Exchange(
        "chat_stream_two_choices.sse",
        "POST",
        path,
        base | USAGE | {"n": 2, "max_tokens": 4, "temperature": 1, "seed": 1},
    )
    yield Exchange("chat_tool_call.json", "POST", path, tool)
    yield Exchange("chat_tool_call_stream.sse", "POST", path, tool | USAGE)


def _other_routes(model: str) -> Iterator[Exchange]:
    completion = {"model": model, "prompt": "The capital of France is", "max_tokens": 4, "temperature": 0}
    response = {"model": model, "input": QUESTION["content"], "max_output_tokens": 12, "temperature": 0}
    message = {"model": model, "messages": [QUESTION], "max_tokens": 12, "temperature": 0}
    yield Exchange("completion.json", "POST", "/v1/completions", completion)
    yield Exchange("completion_stream.sse", "POST", "/v1/completions", completion | {"stream": True})
    yield Exchange("completion_stream_usage.sse", "POST", "/v1/completions", completion | USAGE)
    yield Exchange("responses.json", "POST", "/v1/responses", response)
    yield Exchange("responses_stream.sse", "POST", "/v1/responses", response | {"stream": True})
    yield Exchange("messages.json", "POST", "/v1/messages", message)
    yield Exchange("messages_stream.sse", "POST", "/v1/messages", message | {"stream": True})


def _refusals(model: str) -> Iterator[Exchange]:
    path = "/v1/chat/completions"
    base: JsonObject = {"model": model, "messages": [QUESTION], "max_tokens": 12}
    long = {"role": "user", "content": "word " * 9000}
    yield Exchange("error_unknown_model.json", "POST", path, base | {"model": "nobody"})
    yield Exchange("error_unknown_model_messages.json", "POST", "/v1/messages", base | {"model": "nobody"})
    yield Exchange("error_context_too_long.json", "POST", path, base | {"messages": [long]})
    yield Exchange("error_no_messages.json", "POST", path, {"model": model})
    yield Exchange("error_messages_not_a_list.json", "POST", path, base | {"messages": "hello"})
    yield Exchange("error_empty_tools.json", "POST", path, base | {"tools": []})


def record(url: str, out: Path) -> None:
    """Make every request of ``exchanges`` against the engine at ``url`` and write the answers into ``out``.

    The engine's prefix cache is emptied first, so the engine needs ``VLLM_SERVER_DEV_MODE=1``.

    Raises:
        httpx.HTTPError: the engine did not answer.
    """
    out.mkdir(parents=True, exist_ok=True)
    index = []
    with httpx.Client(base_url=url, timeout=120) as client:
        client.post("/reset_prefix_cache").raise_for_status()
        model, root = _served_model(client)
        for exchange in exchanges(model):
            answer = client.request(exchange.method, exchange.path, json=exchange.body or None)
            out.joinpath(exchange.file).write_bytes(answer.content.replace(root.encode(), b"/models/smollm2"))
            index.append(_shortened(exchange) | _head(answer))
            print(f"{answer.status_code} {exchange.file}")
        out.joinpath("index.json").write_text(json.dumps(index, indent=1) + "\n")
        events = record_events(client, model)
    out.joinpath("kv_events.json").write_text(json.dumps(events, indent=1) + "\n")
    print(f"{len(events)} batches in kv_events.json")


def _served_model(client: httpx.Client) -> tuple[str, str]:
    card = client.get("/v1/models").raise_for_status().json()["data"][0]
    return card["id"], card["root"]


def _shortened(exchange: Exchange) -> JsonObject:
    """Return the exchange for the index, long runs of words cut: they carry no information."""
    text = re.sub(r"(word ){20,}", "word word … ", json.dumps(asdict(exchange)))
    parsed: JsonObject = json.loads(text)
    return parsed


def _head(answer: httpx.Response) -> JsonObject:
    return {"status": answer.status_code, "content_type": answer.headers["content-type"]}
