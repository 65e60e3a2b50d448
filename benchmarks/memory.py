"""What programs cost the server in memory: registered ones while they live, short ones once they have ended.

    python -m benchmarks.memory
    python -m benchmarks.memory --registered 0 --short 1000000 --plot docs/images/memory.png

Starts the server in front of a stub engine. First it registers programs that stay; then it runs short programs, each
one request and a release, and samples the server's resident memory meanwhile.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import os
import statistics
import tempfile
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, cast

import httptools
import uvloop
from rich.console import Console
from rich.progress import Progress

from benchmarks.load import arms
from benchmarks.load.engine import MODEL, Replies, StubEngine

if TYPE_CHECKING:
    from collections.abc import Callable

_MIB = 1024 * 1024
_CONNECTIONS = 32
_SAMPLES = 200


@dataclass(frozen=True, slots=True)
class Sample:
    """Resident memory of the server after so many programs."""

    programs: int
    rss_mib: float


class _Client(asyncio.Protocol):
    """Sends the next request as soon as it is answered; any status but 200 and 201 ends the run."""

    def __init__(self, requests: itertools.chain[bytes], done: asyncio.Future[None], tally: list[int]) -> None:
        self._requests = requests
        self._done = done
        self._tally = tally
        self._parser = httptools.HttpResponseParser(self)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._next()

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def connection_lost(self, exc: Exception | None) -> None:
        if not self._done.done():
            self._done.set_exception(exc or ConnectionError("the server closed a connection"))

    def on_message_complete(self) -> None:
        status = self._parser.get_status_code()
        if status not in {200, 201}:
            if not self._done.done():
                self._done.set_exception(RuntimeError(f"the server answered {status}"))
            return
        self._tally[0] += 1
        self._next()

    def _next(self) -> None:
        request = next(self._requests, None)
        if request is not None:
            self._transport.write(request)
        elif not self._done.done():
            self._done.set_result(None)
            self._transport.close()


def post(path: str, content: dict[str, object]) -> bytes:
    """Return the bytes of a POST request."""
    body = json.dumps(content).encode()
    fields = f"host: localhost\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n"
    return f"POST {path} HTTP/1.1\r\n{fields}\r\n".encode() + body


def registration(number: int) -> list[bytes]:
    """Return the request of a program that stays."""
    return [post("/programs", {"program_id": f"stays-{number:012d}", "group": "benchmark"})]


def short_program(number: int) -> list[bytes]:
    """Return the requests of a program that asks once and is released."""
    program_id = f"short-{number:012d}"
    message = {"role": "user", "content": f"the question of program {number}"}
    chat = {"model": MODEL, "messages": [message], "program_id": program_id}
    return [post("/v1/chat/completions", chat), post("/programs/release", {"program_id": program_id})]


async def drive(server: arms.Running, programs: int, *, stays: bool) -> list[Sample]:
    """Run so many programs, sampling memory at even steps. Raises what the server answered wrongly."""
    samples = []
    batch = max(1, programs // _SAMPLES)
    with Progress(transient=True) as progress:
        task = progress.add_task("registered programs" if stays else "short programs", total=programs)
        for start in range(0, programs, batch):
            numbers = range(start, min(start + batch, programs))
            await run_batch(server.port, numbers, registration if stays else short_program)
            samples.append(Sample(numbers.stop, server.memory_bytes() / _MIB))
            progress.update(task, completed=numbers.stop)
    return samples


async def run_batch(port: int, numbers: range, make: Callable[[int], list[bytes]]) -> None:
    """Run programs over a few connections, each of which takes whole ones: no release overtakes its request."""
    loop = asyncio.get_running_loop()
    tally = [0]
    dones: list[asyncio.Future[None]] = []
    for share in range(min(_CONNECTIONS, len(numbers))):
        dones.append(loop.create_future())
        requests = itertools.chain.from_iterable(map(make, numbers[share::_CONNECTIONS]))
        await loop.create_connection(partial(_Client, requests, dones[-1], tally), "127.0.0.1", port)
    await asyncio.gather(*dones)
    assert tally[0] == len(numbers) * len(make(0))


async def measure(registered: int, short: int) -> dict[str, list[Sample]]:
    """Start engine and server and run both phases."""
    engine = StubEngine(Replies())
    url = f"http://127.0.0.1:{await engine.start()}"
    with tempfile.TemporaryDirectory() as folder:
        server = arms.Running(arms.thunderagent(), url, 1 if (os.cpu_count() or 1) > 1 else 0, Path(folder) / "log")
        try:
            await server.ready()
            idle = [Sample(0, server.memory_bytes() / _MIB)]
            stays = idle + await drive(server, registered, stays=True)
            brief = await drive(server, short, stays=False)
        finally:
            server.stop()
    return {"registered": stays, "short": brief}


def slope_mib(samples: list[Sample]) -> float:
    """Growth in MiB over the second half of a run, by the medians of its last two quarters."""
    quarter = len(samples) // 4
    if not quarter:
        return 0.0
    third = statistics.median(sample.rss_mib for sample in samples[2 * quarter : 3 * quarter])
    return statistics.median(sample.rss_mib for sample in samples[3 * quarter :]) - third


def draw(result: dict[str, list[Sample]], file: Path) -> None:
    """Plot resident memory over programs."""
    import matplotlib.pyplot as plt  # noqa: PLC0415 - only needed for a plot

    figure, axes = plt.subplots(1, 2, figsize=(9, 3.2), layout="constrained")
    for axis, (name, samples) in zip(axes, result.items(), strict=True):
        axis.plot([s.programs for s in samples], [s.rss_mib for s in samples])
        axis.set(title=f"{name} programs", xlabel="programs so far", ylabel="server memory (MiB)", ylim=(0, None))
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, dpi=120)
    plt.close(figure)


def main(arguments: list[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.memory", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--registered", type=int, default=100_000, help="programs that stay (default: %(default)s)")
    add("--short", type=int, default=1_000_000, help="programs that end (default: %(default)s)")
    add("--out", type=Path, default=Path("results/memory.json"), help="JSON file (default: %(default)s)")
    add("--plot", type=Path, help="image file to draw (needs matplotlib)")
    options = parser.parse_args(arguments)
    result = uvloop.run(measure(options.registered, options.short))
    console = Console()
    stays, short = result["registered"], result["short"]
    console.print(f"idle server: {stays[0].rss_mib:.0f} MiB")
    if options.registered:
        each = (stays[-1].rss_mib - stays[0].rss_mib) * 1024 / options.registered
        console.print(f"{options.registered:,} registered: {stays[-1].rss_mib:.0f} MiB, {each:.2f} KiB each")
    if short:
        console.print(f"{options.short:,} short ones later: {short[-1].rss_mib:.0f} MiB")
        console.print(f"growth over the second half: {slope_mib(short):+.1f} MiB")
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps({name: [asdict(s) for s in samples] for name, samples in result.items()}))
    if options.plot:
        draw(result, options.plot)


if __name__ == "__main__":
    main()
