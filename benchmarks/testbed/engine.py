"""Start, stop, kill and restart a real vLLM."""

from __future__ import annotations

import http.client
import json
import socket
import subprocess
import sys
import time
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.testbed.command import HOST, MODEL_NAME, EngineOptions, command, environment, parse_cpus
from benchmarks.testbed.layout import Layout

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import TracebackType
    from typing import IO, Self, Unpack

    from benchmarks.testbed.command import OptionFields

PROBE_S = 0.25
CLEAN_UP_S = 60.0
RESET_S = 60.0
"""How long blocks may still be held after the requests that held them have ended."""

ANSWER_S = 120.0


class EngineStartError(RuntimeError):
    """The engine ended, or was not ready in time; the message ends with its last words."""


class RealVllm:
    """A real vLLM that ends with its owner.

    ``with RealVllm() as engine:`` starts it, waits until it answers, and stops it at the end. All its processes
    also end when the process that made it dies, whatever the cause.

    Args:
        log: file for the engine's output; by default one beside the testbed, named after the port.
        output: an open file descriptor for the engine's output, instead of ``log``.
        start_timeout_s: longest wait for readiness: the first start compiles, and a busy machine is slow.
        stop_timeout_s: how long the engine may take to stop in an orderly way before it is killed.
        layout: where the testbed lies.
        options: the fields of ``EngineOptions``: ``port=0``, ``kv_tokens=16_384``, ``kv_events=True``,
            ``eager=False``, ``cpus=None``, … A restart keeps the port.

    Raises:
        SetupError: on start, when the testbed is not set up.
        EngineStartError: on start, when the engine does not come up.
    """

    def __init__(
        self,
        *,
        log: Path | None = None,
        output: int | None = None,
        start_timeout_s: float = 600.0,
        stop_timeout_s: float = 15.0,
        layout: Layout | None = None,
        **options: Unpack[OptionFields],
    ) -> None:
        self._layout = layout or Layout.default()
        chosen = EngineOptions(**options)
        self.options = replace(chosen, port=chosen.port or free_port())
        self._may_move = not chosen.port
        self.log = log or self._layout.cache / "logs" / f"vllm-{self.options.port}.log"
        self._output = output
        self._start_timeout_s = start_timeout_s
        self._stop_timeout_s = stop_timeout_s
        self._guard: subprocess.Popen[bytes] | None = None
        self._pid = 0

    @property
    def url(self) -> str:
        """Base address, without a slash at the end."""
        return f"http://{HOST}:{self.options.port}"

    @property
    def model(self) -> str:
        """Name under which the engine serves its model."""
        return MODEL_NAME

    @property
    def pid(self) -> int:
        """Process id of the API server, which leads the group of all the engine's processes.

        Raises:
            RuntimeError: the engine is not running.
        """
        if self._guard is None:
            raise RuntimeError("the engine is not running")
        return self._pid

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def start(self) -> None:
        """Start the engine and wait until it answers. Raises SetupError or EngineStartError."""
        self._layout.require()
        if self._guard is not None:
            raise RuntimeError("the engine is already running")
        try:
            self._start()
        except EngineStartError as error:
            if not self._may_move or "address already in use" not in str(error).lower():
                raise
            # Somebody took the port after we had found it free; nobody has been told of it yet.
            self.options = replace(self.options, port=free_port())
            self._start()
        self._may_move = False

    def _start(self) -> None:
        self._guard = self._start_guard()
        try:
            self._pid = self._read_pid(self._guard)
            self._wait_until_ready(self._guard)
            self._tell(self._guard, b"r")
            if self._read_line(self._guard).strip() != b"noted":
                raise EngineStartError(f"the engine ended as soon as it was ready{self._last_words()}")
        except BaseException:
            self.kill()
            raise

    def stop(self) -> None:
        """Stop the engine in an orderly way: requests in flight are aborted. Nothing happens where it has ended."""
        self._end(b"")

    def kill(self) -> None:
        """Kill all the engine's processes at once, as a crash would, and return when they are gone."""
        self._end(b"k")

    def restart(self) -> None:
        """Start the engine again at the same address, killing it first where it still runs."""
        self.kill()
        self.start()

    def reset_prefix_cache(self) -> None:
        """Empty the prefix cache, as between the arms of a benchmark.

        vLLM says that it could not while a block is held, and those of a request that ended just now still are.

        Raises:
            RuntimeError: the engine refuses, or holds blocks for a minute.
        """
        deadline = time.monotonic() + RESET_S
        while not self._reset():
            if time.monotonic() > deadline:
                raise RuntimeError(f"the engine did not empty its prefix cache: it held blocks for {RESET_S:g} s")
            time.sleep(PROBE_S)

    def _reset(self) -> bool:
        """Ask once; return whether the cache is empty now."""
        status, body = _request(self.options.port, "POST", "/reset_prefix_cache", timeout_s=ANSWER_S)
        if status != http.client.OK:
            raise RuntimeError(f"the engine did not empty its prefix cache: HTTP status {status}")
        return json.loads(body)["success"] is True

    def wait(self) -> int:
        """Wait for the engine to end and return its exit status, 128 and the signal's number after a signal."""
        return self._guard.wait() if self._guard else 0

    def _start_guard(self) -> subprocess.Popen[bytes]:
        cpus = ",".join(str(cpu) for cpu in parse_cpus(self.options.cpus)) if self.options.cpus else ""
        guard = [str(Path(__file__).with_name("guard.py")), cpus, str(self._stop_timeout_s)]
        with self._open_output() as output:
            return subprocess.Popen(
                [sys.executable, "-I", *guard, *command(self._layout, self.options)],
                env=environment(self._layout, self.options),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=output,
                start_new_session=True,
            )

    @contextmanager
    def _open_output(self) -> Iterator[IO[bytes] | int]:
        if self._output is not None:
            yield self._output
            return
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with self.log.open("ab") as file:
            yield file

    def _read_pid(self, guard: subprocess.Popen[bytes]) -> int:
        """Return what the guard's first line says."""
        line = self._read_line(guard)
        if not line.strip():
            raise EngineStartError(f"the engine could not be started at all{self._last_words()}")
        return int(line)

    def _read_line(self, guard: subprocess.Popen[bytes]) -> bytes:
        return guard.stdout.readline() if guard.stdout else b""

    def _wait_until_ready(self, guard: subprocess.Popen[bytes]) -> None:
        deadline = time.monotonic() + self._start_timeout_s
        while time.monotonic() < deadline:
            if guard.poll() is not None:
                raise EngineStartError(f"the engine ended with status {guard.returncode}{self._last_words()}")
            status, _ = _request(self.options.port, "GET", "/health", timeout_s=PROBE_S * 8)
            if status == http.client.OK:
                return
            time.sleep(PROBE_S)
        raise EngineStartError(f"the engine was not ready after {self._start_timeout_s:g} s{self._last_words()}")

    def _last_words(self) -> str:
        if self._output is not None:
            return ""
        lines = self.log.read_text(errors="replace").splitlines()[-15:]
        return f"; {self.log} ends with:\n" + "\n".join(lines)

    def _end(self, word: bytes) -> None:
        """Tell the guard how to end the engine, and wait until it has."""
        guard, self._guard = self._guard, None
        if guard is None or guard.stdin is None or guard.stdout is None:
            return
        self._tell(guard, word)
        with suppress(BrokenPipeError):
            guard.stdin.close()
        guard.stdout.close()
        guard.wait(self._stop_timeout_s + CLEAN_UP_S)

    def _tell(self, guard: subprocess.Popen[bytes], word: bytes) -> None:
        with suppress(BrokenPipeError):  # it has ended already
            if guard.stdin:
                guard.stdin.write(word)
                guard.stdin.flush()


def free_port() -> int:
    """Return a TCP port on 127.0.0.1 that nobody uses now."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


def _request(port: int, method: str, path: str, *, timeout_s: float) -> tuple[int, bytes]:
    """Return HTTP status and body of one answer, or 0 and nothing where there was none."""
    connection = http.client.HTTPConnection(HOST, port, timeout=timeout_s)
    try:
        connection.request(method, path)
        answer = connection.getresponse()
        return answer.status, answer.read()
    except (OSError, http.client.HTTPException):
        return 0, b""
    finally:
        connection.close()
