"""Command line of the testbed. Only ``record`` needs more than the standard library."""

from __future__ import annotations

import argparse
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.testbed.engine import EngineStartError, RealVllm
from benchmarks.testbed.install import setup
from benchmarks.testbed.layout import Layout, SetupError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import FrameType


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; return 0, or 1 with one line on standard error."""
    options = _parser().parse_args(arguments)
    signal.signal(signal.SIGTERM, _interrupt)  # so that what was started is stopped
    layout = Layout(options.cache) if options.cache else Layout.default()
    try:
        if options.command == "setup":
            setup(layout)
        elif options.command == "serve":
            _serve(layout, options)
        else:
            _record(options)
    except (SetupError, EngineStartError, ValueError) as error:
        print(f"testbed: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.testbed", description=__doc__)
    parser.add_argument(
        "--cache", type=Path, help="directory of the testbed [$THUNDERAGENT_CACHE or ~/.cache/thunderagent]"
    )
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("setup", help="install vLLM and convert the model, where that is not done")
    _add_serve(commands.add_parser("serve", help="run the engine in the foreground"))
    record = commands.add_parser("record", help="keep a running engine's answers for the tests")
    record.add_argument("--url", required=True, help="the engine's address")
    record.add_argument("--out", type=Path, required=True, help="directory for the answers")
    record.add_argument("--pid", type=int, help="process of its API server: only record how it ends when stopped")
    return parser


def _add_serve(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--port", type=int, required=True, help="TCP port on 127.0.0.1")
    parser.add_argument("--kv-tokens", type=int, default=16_384, help="size of the KV pool in tokens [%(default)s]")
    parser.add_argument("--max-model-len", type=int, default=8_192, help="longest context in tokens [%(default)s]")
    parser.add_argument("--block-size", type=int, default=32, help="tokens in one KV block [%(default)s]")
    parser.add_argument(
        "--kv-events-port", type=int, default=0, help="port of the KV events, the next one for replay [any free]"
    )
    parser.add_argument("--no-kv-events", dest="kv_events", action="store_false", help="publish no KV events")
    parser.add_argument("--eager", action="store_true", help="start sooner, decode slower")
    parser.add_argument("--cpus", help="cores to confine the engine to, as in 0 or 0-3,6 [all]")
    parser.add_argument("extra", nargs="*", help="further arguments for vLLM, after --")


def _serve(layout: Layout, options: argparse.Namespace) -> None:
    engine = RealVllm(
        layout=layout,
        output=sys.stderr.fileno(),
        port=options.port,
        kv_tokens=options.kv_tokens,
        max_model_len=options.max_model_len,
        block_size=options.block_size,
        kv_events=options.kv_events,
        kv_events_port=options.kv_events_port,
        eager=options.eager,
        cpus=options.cpus,
        extra=tuple(options.extra),
    )
    with engine:
        print(f"ready: {engine.url} (process {engine.pid})", flush=True)
        engine.wait()


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _record(options: argparse.Namespace) -> None:
    # Set-up must work before httpx is installed.
    from benchmarks.testbed.record import record  # noqa: PLC0415
    from benchmarks.testbed.record_end import record_end  # noqa: PLC0415

    if options.pid:
        record_end(options.url, options.out, options.pid)
    else:
        record(options.url, options.out)


if __name__ == "__main__":
    sys.exit(main())
