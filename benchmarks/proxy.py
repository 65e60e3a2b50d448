"""How much traffic the server passes on one core, beside other routers.

    python -m benchmarks.proxy
    python -m benchmarks.proxy --arm bare --arm 'other=path/to/other --to {url} --listen {port}'

A stub engine and a load generator share one core; each proxy has another to itself while it is measured. Every
answer is checked: status, length, number of chunks. Routers and libraries are installed from PyPI when
first needed.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import uvloop
from rich.console import Console

from benchmarks.load import arms, report
from benchmarks.load.engine import Replies
from benchmarks.load.session import Plan, Session

if TYPE_CHECKING:
    from collections.abc import Callable

_OURS = "thunderagent"
_DEFAULT_ARMS = ("bare", _OURS, "smg", "vllm-router")
_LIBRARY_ARMS = ("aiohttp", "uvicorn+aiohttp", "uvicorn+ours", "granian+ours")


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.proxy", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--arm", action="append", metavar="NAME", help=f"one of {', '.join(_DEFAULT_ARMS)} (the default), one of "
        f"{', '.join(_LIBRARY_ARMS)} (bare relays over other libraries), or NAME=COMMAND with {{url}} and "
        "{port} in it; may be repeated")  # fmt: skip
    add("--rounds", type=int, default=5, help="how often each arm is measured (default: %(default)s)")
    add("--seconds", type=float, default=1.0, help="length of each measurement (default: %(default)s)")
    add("--warmup", type=float, default=0.3, help="seconds of load before it (default: %(default)s)")
    add("--connections", type=int, default=32, help="clients at a time (default: %(default)s)")
    add("--prompt-bytes", type=int, default=4096, help="length of each prompt (default: %(default)s)")
    add("--chunks", type=int, default=256, help="chunks in a streamed answer (default: %(default)s)")
    add("--burst", type=int, default=4, help="chunks that the engine writes at a time (default: %(default)s)")
    add("--load-core", type=int, default=0, help="core of engine and load generator (default: %(default)s)")
    add("--proxy-core", type=int, default=1, help="core of the proxies (default: %(default)s)")
    add("--seed", type=int, default=0, help="for the order of the arms (default: %(default)s)")
    add("--max-others", type=float, default=0.15, help="repeat what was measured while other processes used "
        "more of a core than this (default: %(default)s)")  # fmt: skip
    add("--patience", type=float, default=30.0, help="seconds to repeat for (default: %(default)s)")
    add("--cache", type=Path, default=Path("~/.cache/thunderagent/bench-routers"),
        help="where routers and libraries are installed (default: %(default)s)")  # fmt: skip
    add("--out", type=Path, default=Path("results/proxy.json"), help="JSON file (default: %(default)s)")
    add("--plot", type=Path, help="image file to draw (needs matplotlib)")
    add("--check", action="store_true", help=f"fail where {_OURS} misses its goals")
    return parser.parse_args(arguments)


def choose(names: list[str], cache: Path) -> list[arms.Arm]:
    """Return the arms of these names, installing what they need. Raises ValueError for an unknown name."""
    known: dict[str, Callable[[Path], arms.Arm]] = {
        "bare": lambda _: arms.bare(),
        _OURS: lambda _: arms.thunderagent(),
        "smg": arms.smg,
        "vllm-router": arms.vllm_router,
        "aiohttp": arms.on_aiohttp,
        "uvicorn+aiohttp": lambda binaries: arms.on_uvicorn(binaries, "aiohttp"),
        "uvicorn+ours": lambda binaries: arms.on_uvicorn(binaries, "ours"),
        "granian+ours": arms.on_granian,
    }
    packages = {"smg": arms.ROUTERS, "vllm-router": arms.ROUTERS, "bare": (), _OURS: ()}
    chosen = []
    for name in names:
        needs = packages.get(name, arms.LIBRARIES) if name in known else ()
        home = cache / ("routers" if needs == arms.ROUTERS else "libraries")
        binaries = arms.install(needs, home) if needs else home
        chosen.append(known[name](binaries) if name in known else arms.custom(name))
    return chosen


def main() -> int:
    """Measure, show and store; return the exit status."""
    options = parse()
    console = Console() if sys.stdout.isatty() else Console(width=140)
    progress = Console(stderr=True)
    plan = Plan(
        rounds=options.rounds,
        seconds=options.seconds,
        warmup_s=options.warmup,
        connections=options.connections,
        prompt_bytes=options.prompt_bytes,
        load_core=options.load_core,
        proxy_core=options.proxy_core,
        seed=options.seed,
        max_others=options.max_others,
        patience_s=options.patience,
    )
    try:
        chosen = choose(options.arm or list(_DEFAULT_ARMS), options.cache)
    except ValueError as error:
        progress.print(f"[red]{error}")
        return 2
    options.out.parent.mkdir(parents=True, exist_ok=True)
    replies = Replies(chunks=options.chunks, burst=options.burst)
    session = Session(plan, replies, options.out.parent, lambda line: progress.print(line, style="dim"))
    result = uvloop.run(session.run(chosen))
    console.print(report.table(result))
    report.write_json(result, options.out)
    if options.plot is not None:
        report.plot(result, options.plot)
    missed = report.unmet(result, _OURS) if options.check else []
    for line in missed:
        console.print(line, style="red")
    return 1 if missed or result.failures else 0


if __name__ == "__main__":
    sys.exit(main())
