"""Record KV events of a real vLLM: raw frames beside what they decode to."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING, Any

import msgspec
import zmq

if TYPE_CHECKING:
    import httpx

JsonObject = dict[str, Any]
QUIET_MS = 1_500


def record_events(client: httpx.Client, model: str) -> list[JsonObject]:
    """Cause each kind of KV event on the engine and return the batches.

    Two requests of one session (the second reuses the first one's blocks), one of another session that asks to
    be told of reused blocks too, one of none, prompts that push old blocks out, and a reset of the prefix cache.
    The engine's publisher must bind its address (``tcp://*:PORT``).

    Raises:
        RuntimeError: the engine publishes no events.
    """
    source = client.get("/kv_event_sources").json().get("0")
    if not source:
        raise RuntimeError("the engine publishes no KV events: start it with --kv-events-config")
    client.post("/reset_prefix_cache").raise_for_status()
    with zmq.Context() as context, context.socket(zmq.SUB) as socket:
        socket.connect(source["endpoint"])
        socket.subscribe(source["topic"])
        _ask(client, model, "warm-up, until the subscription has reached the engine", "nobody")
        _drain(socket)
        return _cause_events(client, model, socket)


def _cause_events(client: httpx.Client, model: str, socket: zmq.Socket[bytes]) -> list[JsonObject]:
    story = "Tell me of the fox and the hare. " * 10
    _ask(client, model, story, "program-a")
    _ask(client, model, story + "And of the crow. " * 10, "program-a")
    _ask(client, model, story + "And of the crow. " * 10, "program-b", kv_cache_report_mode="full")
    _ask(client, model, "An unrelated question. " * 10, None)
    batches = _drain(socket)
    for filler in ("one ", "two ", "six "):
        _ask(client, model, filler * 6500, "filler")
    _drain(socket)  # thousands of token ids that teach nothing
    _ask(client, model, "A small question that pushes out old blocks. " * 6, "program-c")
    batches += _drain(socket)
    client.post("/reset_prefix_cache").raise_for_status()
    _ask(client, model, "After the reset. " * 10, "program-c")
    return batches + _drain(socket)


def _ask(client: httpx.Client, model: str, text: str, session: str | None, **xargs: str) -> None:
    body = {"model": model, "prompt": text, "max_tokens": 1, "temperature": 0, "vllm_xargs": xargs}
    headers = {"X-Session-ID": session} if session else {}
    client.post("/v1/completions", json=body, headers=headers).raise_for_status()


def _drain(socket: zmq.Socket[bytes]) -> list[JsonObject]:
    batches = []
    while socket.poll(QUIET_MS):
        topic, sequence, payload = socket.recv_multipart()
        batches.append(
            {
                "topic": topic.decode(),
                "sequence": int.from_bytes(sequence, "big"),
                "payload_base64": base64.b64encode(payload).decode(),
                "decoded": msgspec.to_builtins(msgspec.msgpack.decode(payload)),
            }
        )
    return batches
