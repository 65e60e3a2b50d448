"""Record how a real vLLM ends the answers that it is giving when it is told to stop."""

from __future__ import annotations

import os
import signal
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import httpx

if TYPE_CHECKING:
    from pathlib import Path

PATH = "/v1/chat/completions"
CHUNKS_BEFORE = 10
KEPT_EVENTS = 8


def record_end(url: str, out: Path, pid: int) -> None:
    """Ask for two long answers, stop the engine while it streams, and write how both ended into ``out``.

    Args:
        url: the engine's address.
        out: directory for ``chat_stream_engine_stopped.sse`` (its last events) and ``chat_engine_stopped.json``.
        pid: process id of the engine's API server, which is sent SIGTERM.

    Raises:
        httpx.HTTPError: an answer broke off instead of ending.
    """
    model = httpx.get(f"{url}/v1/models").raise_for_status().json()["data"][0]["id"]
    body = {
        "model": model,
        "messages": [{"role": "user", "content": "Tell a very long story."}],
        "max_tokens": 4_000,
        "ignore_eos": True,
    }
    with ThreadPoolExecutor(1) as pool:
        whole = pool.submit(httpx.post, url + PATH, json=body, timeout=120)
        stream = _stream_until_stopped(url, body | {"stream": True}, pid)
        answer = whole.result()
    events = stream.split(b"\n\n")
    out.joinpath("chat_stream_engine_stopped.sse").write_bytes(b"\n\n".join(events[-KEPT_EVENTS:]))
    out.joinpath("chat_engine_stopped.json").write_bytes(answer.content)
    print(f"{answer.status_code} chat_engine_stopped.json")


def _stream_until_stopped(url: str, body: dict[str, Any], pid: int) -> bytes:
    received = b""
    with httpx.stream("POST", url + PATH, json=body, timeout=120) as answer:
        for number, piece in enumerate(answer.iter_raw()):
            received += piece
            if number == CHUNKS_BEFORE:
                os.kill(pid, signal.SIGTERM)
    return received
