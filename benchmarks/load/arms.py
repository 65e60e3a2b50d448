"""The proxies that are measured: how each is started, and what its processes use."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
import time
import venv
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

ROUTERS: Final = ("smg==1.13.0", "vllm-router==0.1.17")
"""Packages of the arms ``smg`` and ``vllm-router``."""

LIBRARIES: Final = ("aiohttp==3.14.5", "uvicorn[standard]==0.54.0", "granian==2.8.7")
"""Packages of the relays over other libraries."""

# Nothing that only costs: no request log, no limit, no copy for a retry, no index of prompts over one worker.
_ROUTER_OPTIONS: Final = ("--log-level", "error", "--max-concurrent-requests", "100000", "--disable-retries")

_ASGI_RELAY: Final = "benchmarks.load.alternatives.on_asgi:app"
_START_S: Final = 60.0
_STOP_S: Final = 5.0


class ArmError(Exception):
    """A proxy did not start, or ended while it was measured."""


@dataclass(frozen=True, slots=True)
class Arm:
    """A proxy: its name and the command that starts it for a backend's URL and a port to listen on."""

    name: str
    command: Callable[[str, int], list[str]]


def bare() -> Arm:
    """Our transport with no scheduling."""
    return Arm(
        "bare",
        lambda url, port: [sys.executable, "-m", "benchmarks.load.relay", "--backend", url, "--port", str(port)],
    )


def thunderagent() -> Arm:
    """The complete server."""
    options = ["--host", "127.0.0.1", "--capacity-tokens", "10000000"]
    return Arm(
        "thunderagent",
        lambda url, port: [
            *(sys.executable, "-m", "thunderagent_core", "serve", "--backend", url, "--port", str(port)),
            *options,
        ],
    )


def smg(binaries: Path) -> Arm:
    """SMG, a router in Rust, with one worker."""
    options = ["--policy", "round_robin", *_ROUTER_OPTIONS]
    return Arm(
        "smg",
        lambda url, port: [
            *(str(binaries / "smg"), "launch", "--backend", "vllm", "--worker-urls", url),
            *("--host", "127.0.0.1", "--port", str(port), "--prometheus-port", str(free_port()), *options),
        ],
    )


def vllm_router(binaries: Path) -> Arm:
    """The vLLM project's router, in Rust, with one worker."""
    options = ["--policy", "round_robin", *_ROUTER_OPTIONS]
    return Arm(
        "vllm-router",
        lambda url, port: [
            *(str(binaries / "vllm-router"), "--worker-urls", url),
            *("--host", "127.0.0.1", "--port", str(port), "--prometheus-port", str(free_port()), *options),
        ],
    )


def custom(text: str) -> Arm:
    """Any other proxy, as ``NAME=COMMAND`` with ``{url}`` and ``{port}``. Raises ValueError where malformed."""
    name, separator, command = text.partition("=")
    if not separator or "{url}" not in command or "{port}" not in command:
        raise ValueError(f"expected NAME=COMMAND with {{url}} and {{port}} in it, not {text!r}")
    return Arm(
        name, lambda url, port: ["sh", "-c", "exec " + command.replace("{url}", url).replace("{port}", str(port))]
    )


def on_aiohttp(binaries: Path) -> Arm:
    """A bare relay of aiohttp's server and client."""
    module = [str(binaries / "python"), "-m", "benchmarks.load.alternatives.on_aiohttp"]
    return Arm("aiohttp", lambda url, port: [*module, url, str(port)])


def on_uvicorn(binaries: Path, client: str) -> Arm:
    """A bare relay as a raw ASGI application on uvicorn, with ``aiohttp``'s client or ``ours``."""
    options = ["--loop", "uvloop", "--http", "httptools", "--no-access-log", "--log-level", "error"]
    return Arm(
        f"uvicorn+{client}",
        lambda url, port: [
            *("env", f"RELAY_BACKEND={url}", f"RELAY_CLIENT={client}"),
            *(str(binaries / "uvicorn"), _ASGI_RELAY, "--port", str(port), *options),
        ],
    )


def on_granian(binaries: Path) -> Arm:
    """The same on granian, whose HTTP is in Rust, with our client."""
    options = ["--interface", "asgi", "--loop", "uvloop", "--no-log", "--host", "127.0.0.1"]
    return Arm(
        "granian+ours",
        lambda url, port: [
            *("env", f"RELAY_BACKEND={url}", "RELAY_CLIENT=ours", f"PYTHONPATH={Path.cwd()}"),
            *(str(binaries / "granian"), *options, "--port", str(port), _ASGI_RELAY),
        ],
    )


def install(packages: tuple[str, ...], home: Path) -> Path:
    """Install packages from PyPI into a virtual environment of their own, once; return its programs."""
    home = home.expanduser()
    binaries, marker = home / "bin", home / "installed"
    if not marker.exists() or marker.read_text() != repr(packages):
        venv.create(home, with_pip=True)
        subprocess.run([binaries / "pip", "install", "--quiet", *packages], check=True)
        marker.write_text(repr(packages))
    return binaries


def free_port() -> int:
    """Return a port of the loopback interface that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def core_cpu_s(core: int) -> float:
    """Return the time in seconds that a core has spent on processes, rather than idle or on interrupts."""
    for line in Path("/proc/stat").read_text().splitlines():
        name, *ticks = line.split()
        if name == f"cpu{core}":
            user, nice, system = (int(count) for count in ticks[:3])
            return (user + nice + system) / os.sysconf("SC_CLK_TCK")
    raise ArmError(f"there is no core {core}")


class Running:
    """A started proxy, held on one core with all its threads and children."""

    def __init__(self, arm: Arm, url: str, core: int, log: Path) -> None:
        self.arm = arm
        self.port = free_port()
        self._log = log
        with log.open("wb") as output:
            self._process = subprocess.Popen(
                ["taskset", "-c", str(core), *arm.command(url, self.port)],
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                env={**os.environ, "NO_COLOR": "1"},
            )

    async def ready(self) -> None:
        """Wait until it passes a request for the list of models on. Raises ArmError."""
        deadline = time.monotonic() + _START_S
        while time.monotonic() < deadline:
            if self._process.poll() is not None:
                break
            if await self._answers():
                return
            await asyncio.sleep(0.1)
        raise ArmError(f"{self.arm.name} did not start:\n{self._log.read_text(errors='replace')[-2000:]}")

    async def _answers(self) -> bool:
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        except OSError:
            return False
        try:
            writer.write(b"GET /v1/models HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n")
            async with asyncio.timeout(2):
                return b" 200 " in await reader.readline() and b"bench" in await reader.read()
        except (OSError, TimeoutError):
            return False
        finally:
            writer.close()

    def cpu_s(self) -> float:
        """Return the processor time that its processes have used, in seconds."""
        ticks = 0
        for pid in self._pids():
            fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
            ticks += int(fields[11]) + int(fields[12])
        return ticks / os.sysconf("SC_CLK_TCK")

    def memory_bytes(self) -> int:
        """Return the resident memory of its processes, in bytes."""
        pages = sum(int(Path(f"/proc/{pid}/statm").read_text().split()[1]) for pid in self._pids())
        return pages * os.sysconf("SC_PAGE_SIZE")

    def _pids(self) -> list[int]:
        """Return those of its session: the launchers of some proxies start others."""
        found = []
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                try:
                    session = int((entry / "stat").read_text().rsplit(")", 1)[1].split()[3])
                except (OSError, IndexError):
                    continue  # it has just ended
                if session == self._process.pid:
                    found.append(int(entry.name))
        return found

    def stop(self) -> None:
        """End it."""
        self._process.terminate()
        try:
            self._process.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
