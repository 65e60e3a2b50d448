"""What the tests of the simulated engine share."""

from __future__ import annotations

import asyncio
import json
from typing import Any

from prometheus_client.parser import text_string_to_metric_families

from thunderagent_core.engines.simulated.limits import EngineLimits
from thunderagent_core.engines.simulated.model import EngineModel
from thunderagent_core.engines.simulated.requests import EngineRequest
from thunderagent_core.engines.simulated.timing import presets

SPEED = 10_000.0


def make_model(num_blocks: int = 33, block_tokens: int = 4, **sizes: Any) -> EngineModel:
    sizes.setdefault("max_model_len", (num_blocks - 1) * block_tokens)
    sizes.setdefault("max_num_seqs", 16)
    sizes.setdefault("max_num_batched_tokens", 64)
    limits = EngineLimits(num_blocks, block_tokens, **sizes)
    return EngineModel(limits, presets()["smollm2-cpu"], record_events=True)


def request(name, prompt, output=3, **more):
    """A request for ``output`` tokens."""
    return EngineRequest(name, list(prompt), [1000 + i for i in range(output)], **more)


def chat(text="What is the capital of France?", **more):
    """A chat request."""
    return {"model": "sim", "messages": [{"role": "user", "content": text}], "max_tokens": 8, **more}


def sse(text):
    """The events of a stream, as (event name or None, data)."""
    events = []
    for block in filter(None, text.split("\n\n")):
        fields = dict(line.split(": ", 1) for line in block.split("\n"))
        data = fields["data"]
        events.append((fields.get("event"), data if data == "[DONE]" else json.loads(data)))
    return events


def sample(text, name):
    """The value of a metric with the labels engine and model_name."""
    for family in text_string_to_metric_families(text):
        for found in family.samples:
            if found.name == f"vllm:{name}":
                return found.value
    raise KeyError(name)


async def eventually(condition):
    """Wait until ``condition`` holds; a wait in vain ends with the test's own time-out."""
    while not condition():
        await asyncio.sleep(0.001)
