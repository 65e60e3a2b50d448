"""How the engine is started: its command line and environment."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypedDict

if TYPE_CHECKING:
    from benchmarks.testbed.layout import Layout

MODEL_NAME = "smollm2"
HOST = "127.0.0.1"


class OptionFields(TypedDict, total=False):
    """The fields of ``EngineOptions`` as keyword arguments of others."""

    port: int
    kv_tokens: int
    max_model_len: int
    block_size: int
    max_num_seqs: int
    kv_events: bool
    kv_events_port: int
    kv_events_endpoint: str | None
    eager: bool
    cpus: str | None
    extra: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineOptions:
    """What can be chosen about the engine.

    Args:
        port: TCP port on 127.0.0.1; 0 chooses a free one.
        kv_tokens: size of the KV pool in tokens. 16,384 is small enough that 24 agents thrash it.
        max_model_len: longest context in tokens.
        block_size: tokens in one KV block.
        max_num_seqs: most requests in one batch.
        kv_events: whether KV events are published.
        kv_events_port: port of the publisher, the next one being that of the replay socket; 0 lets the system
            choose (``GET /kv_event_sources`` tells).
        kv_events_endpoint: ZeroMQ address that the publisher connects to, instead of binding one: the
            subscriber then binds. Excludes replay.
        eager: start without compiling: ready after 30 s instead of 45 s to 150 s, decoding up to 40 % slower.
        cpus: cores that all the engine's processes are confined to, as in ``0`` or ``0-3,6``. None leaves
            the whole machine to it, of which vLLM computes on all cores but one.
        extra: further command-line arguments.
    """

    port: int = 0
    kv_tokens: int = 16_384
    max_model_len: int = 8_192
    block_size: int = 32
    max_num_seqs: int = 64
    kv_events: bool = True
    kv_events_port: int = 0
    kv_events_endpoint: str | None = None
    eager: bool = False
    cpus: str | None = None
    extra: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.kv_tokens % self.block_size:
            raise ValueError(f"kv_tokens {self.kv_tokens} is not a multiple of block_size {self.block_size}")
        if self.cpus is not None:
            parse_cpus(self.cpus)


def parse_cpus(text: str) -> list[int]:
    """Return the cores that ``text`` names: numbers and ranges joined by commas, as in ``0-3,6``.

    Raises:
        ValueError: it is written otherwise.
    """
    cpus: set[int] = set()
    for part in text.split(","):
        first, _, last = part.partition("-")
        cpus.update(range(int(first), int(last or first) + 1))
    return sorted(cpus)


def command(layout: Layout, options: EngineOptions) -> list[str]:
    """Return the argument vector. vLLM's own command fails in the CPU build, so its server module is run."""
    numbers = {
        "--port": options.port,
        "--max-model-len": options.max_model_len,
        "--block-size": options.block_size,
        "--num-gpu-blocks-override": options.kv_tokens // options.block_size,
        "--max-num-seqs": options.max_num_seqs,
    }
    return [
        *(str(layout.python), "-m", "vllm.entrypoints.openai.api_server"),
        *("--model", str(layout.model), "--served-model-name", MODEL_NAME, "--host", HOST),
        *(text for name, value in numbers.items() for text in (name, str(value))),
        "--enable-prompt-tokens-details",
        *("--enable-auto-tool-choice", "--tool-call-parser", "hermes"),
        *(("--kv-events-config", json.dumps(_kv_events(options))) if options.kv_events else ()),
        *(("--enforce-eager",) if options.eager else ()),
        *options.extra,
    ]


def _kv_events(options: EngineOptions) -> dict[str, object]:
    config: dict[str, object] = {"enable_kv_cache_events": True, "publisher": "zmq", "topic": "kv"}
    if options.kv_events_endpoint:
        return config | {"endpoint": options.kv_events_endpoint}
    port = options.kv_events_port
    return config | {"endpoint": f"tcp://*:{port}", "replay_endpoint": f"tcp://*:{port + 1 if port else 0}"}


def environment(layout: Layout, options: EngineOptions) -> dict[str, str]:
    """Return the engine's environment: ours, without what would slow or confuse it."""
    unwanted = {"PYTHONPATH", "PYTHONHOME", "PYTHONDONTWRITEBYTECODE", "OMP_NUM_THREADS"}
    chosen = {k: v for k, v in os.environ.items() if k not in unwanted}
    chosen |= {
        "VLLM_SERVER_DEV_MODE": "1",  # /reset_prefix_cache, between the arms of a benchmark
        "VLLM_CPU_KVCACHE_SPACE": str(_kv_gib(options)),
        "VLLM_CPU_OMP_THREADS_BIND": options.cpus or "auto",
        "VLLM_HOST_IP": HOST,  # publishers with a port of the system's choice bind this address
        "VLLM_CACHE_ROOT": str(layout.compiled),
        # Ahead-of-time compilation saves what this build cannot load again, and so compiles at every start.
        "VLLM_USE_AOT_COMPILE": "0",
        "VLLM_NO_USAGE_STATS": "1",
        "DO_NOT_TRACK": "1",
        "HF_HUB_OFFLINE": "1",
        "TRANSFORMERS_OFFLINE": "1",
    }
    if layout.openmp.exists():
        chosen["LD_PRELOAD"] = str(layout.openmp)
    return chosen


def _kv_gib(options: EngineOptions) -> int:
    """Return whole GiB that hold the pool."""
    per_token = 30 * 2 * 3 * 64 * 2  # layers, keys and values, KV heads, size of a head, bytes of a bfloat16
    return max(2, -(-options.kv_tokens * per_token // 1024**3) + 1)
