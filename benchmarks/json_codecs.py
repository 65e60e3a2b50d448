"""What decoding and encoding one chat request costs, by JSON library.

    python -m benchmarks.json_codecs

Libraries that are not installed are left out; orjson is no dependency of ours.
"""

from __future__ import annotations

import importlib
import json
import statistics
import timeit
from functools import partial
from typing import TYPE_CHECKING, Any

import msgspec
from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    from collections.abc import Callable

_REPEATS = 15
_CALLS = 2000


def body(prompt_bytes: int = 4096) -> bytes:
    """Return a chat request of a few turns whose texts have ``prompt_bytes`` in all, with escapes in them."""
    text = ('He said "no"\nand left the room. ' * (prompt_bytes // 30))[: prompt_bytes // 8]
    roles = ("system", "user", "assistant", "user", "assistant", "user", "assistant", "user")
    messages = [{"role": role, "content": text} for role in roles]
    return json.dumps({"model": "bench", "messages": messages, "temperature": 0.7, "stream": True}).encode()


def codecs() -> dict[str, tuple[Callable[[bytes], Any], Callable[[Any], Any]]]:
    """Return decoding and encoding functions by name."""
    found: dict[str, tuple[Callable[[bytes], Any], Callable[[Any], Any]]] = {
        "json": (json.loads, lambda value: json.dumps(value).encode()),
        "msgspec": (msgspec.json.Decoder().decode, msgspec.json.Encoder().encode),
    }
    try:
        orjson = importlib.import_module("orjson")
    except ImportError:
        return found
    return {**found, "orjson": (orjson.loads, orjson.dumps)}


def micros(call: Callable[[], Any]) -> float:
    """Return the median time of a call, in microseconds."""
    return statistics.median(timeit.repeat(call, number=_CALLS, repeat=_REPEATS)) / _CALLS * 1e6


def main() -> None:
    """Measure and show."""
    data = body()
    table = Table(title=f"A chat request of {len(data)} B: median µs of {_REPEATS} × {_CALLS} calls")
    for heading in ("library", "decode", "encode", "both"):
        table.add_column(heading, justify="left" if heading == "library" else "right")
    for name, (decode, encode) in codecs().items():
        value = decode(data)
        times = micros(partial(decode, data)), micros(partial(encode, value))
        table.add_row(name, *(f"{time:.1f}" for time in (*times, sum(times))))
    Console().print(table)


if __name__ == "__main__":
    main()
