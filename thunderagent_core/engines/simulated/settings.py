"""Options of the simulated engine, all in one place and checked before anything starts."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path  # noqa: TC003 - ``describe`` evaluates the annotations
from typing import Annotated, Final, get_type_hints

from thunderagent_core.engines.simulated.limits import EngineLimits
from thunderagent_core.engines.simulated.timing import Coefficients, presets

MAX_PORT: Final = 65535
DEFAULT_MODEL_LEN: Final = 8192


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineSettings:
    """Everything that can be chosen about a simulated engine. ``describe`` returns the one-line descriptions.

    Raises:
        ValueError: a value is impossible; the message names the option, what was given and what is allowed.
    """

    host: Annotated[str, "Address to listen on."] = "127.0.0.1"
    port: Annotated[int, "Port to listen on; 0 lets the system choose."] = 8000
    model: Annotated[str, "Name of the served model; requests for another one get vLLM's 404."] = "simulated"
    preset: Annotated[str, "Timing coefficients to start from: smollm2-cpu or h100-moe."] = "smollm2-cpu"
    base_ms: Annotated[float | None, "Milliseconds of every engine step; default: the preset's."] = None
    prefill_ms_per_1k_tokens: Annotated[
        float | None, "Milliseconds for 1,000 prefill tokens; default: the preset's."
    ] = None
    decode_ms_per_sequence: Annotated[
        float | None, "Milliseconds for each decoding request in a step; default: the preset's."
    ] = None
    attention_ms_per_million_pairs: Annotated[
        float | None, "Milliseconds for a million (token, context token) pairs; default: the preset's."
    ] = None
    speed: Annotated[float, "Divides all engine times: 10 is ten times as fast."] = 1.0
    block_tokens: Annotated[int, "Tokens in one KV block (vLLM: --block-size)."] = 16
    num_blocks: Annotated[int, "KV blocks in the pool, one of them reserved (vLLM: --num-gpu-blocks-override)."] = 1024
    max_model_len: Annotated[
        int | None, "Longest prompt and output together, in tokens; default: 8192, or what the pool holds if less."
    ] = None
    max_num_seqs: Annotated[int, "Requests that run at once."] = 256
    max_num_batched_tokens: Annotated[int, "Tokens computed in one engine step."] = 2048
    reply_tokens: Annotated[
        int | None,
        "Length of unscripted replies in tokens; default: the request's max_tokens, or 64 where it has none.",
    ] = None
    script: Annotated[Path | None, "TOML or JSON file with scripted replies (docs/simulated-engine.md)."] = None
    kv_events_endpoint: Annotated[
        str | None, "ZeroMQ address for KV events: tcp://*:PORT binds, tcp://HOST:PORT connects; default: no events."
    ] = None
    kv_events_replay_endpoint: Annotated[str | None, "ZeroMQ address to bind for replaying past KV events."] = None
    kv_events_topic: Annotated[str, "Topic of the KV events."] = "kv"
    kv_events_buffer_steps: Annotated[int, "Batches of KV events kept for replay."] = 10_000
    max_body_bytes: Annotated[int, "Longest request body in bytes; more is refused with 413."] = 32 * 1024 * 1024

    def __post_init__(self) -> None:
        _require(0 <= self.port <= MAX_PORT, "port", self.port, f"0 to {MAX_PORT}")
        _require(bool(self.model), "model", self.model, "a name")
        _require(self.preset in presets(), "preset", self.preset, " or ".join(presets()))
        _require(0 < self.speed < math.inf, "speed", self.speed, "more than 0 and finite")
        for name in ("max_body_bytes", "kv_events_buffer_steps"):
            _require(getattr(self, name) >= 1, name, getattr(self, name), "at least 1")
        reply = self.reply_tokens
        _require(reply is None or reply >= 1, "reply_tokens", reply, "at least 1")
        replay = self.kv_events_replay_endpoint
        _require(
            replay is None or self.kv_events_endpoint is not None,
            "kv_events_replay_endpoint",
            replay,
            "nothing without kv_events_endpoint",
        )
        for name in _COEFFICIENTS:
            value = getattr(self, name)
            _require(value is None or 0 <= value < math.inf, name, value, "at least 0 and finite")
        _ = self.limits

    @property
    def limits(self) -> EngineLimits:
        """Sizes for the engine model."""
        pool_tokens = max(1, (self.num_blocks - 1) * self.block_tokens)
        return EngineLimits(
            num_blocks=self.num_blocks,
            block_tokens=self.block_tokens,
            max_model_len=min(DEFAULT_MODEL_LEN, pool_tokens) if self.max_model_len is None else self.max_model_len,
            max_num_seqs=self.max_num_seqs,
            max_num_batched_tokens=self.max_num_batched_tokens,
        )

    @property
    def coefficients(self) -> Coefficients:
        """The preset's coefficients with those that were given in their place."""
        given = {name: getattr(self, name) for name in _COEFFICIENTS if getattr(self, name) is not None}
        return replace(presets()[self.preset], **given)

    @classmethod
    def describe(cls) -> dict[str, str]:
        """Return the one-line description of each option."""
        hints = get_type_hints(cls, include_extras=True)
        return {name: hint.__metadata__[0] for name, hint in hints.items() if hasattr(hint, "__metadata__")}


_COEFFICIENTS: Final = (
    "base_ms",
    "prefill_ms_per_1k_tokens",
    "decode_ms_per_sequence",
    "attention_ms_per_million_pairs",
)


def _require(condition: bool, option: str, given: object, allowed: str) -> None:
    if not condition:
        raise ValueError(f"{option}: {given!r} was given, allowed is {allowed}")
