"""A Docker daemon of a test's own, which may be killed: its own directories, socket and network namespace."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Self

from docker_testbed import Engine

START_S = 180.0
"""A daemon that was killed can take a minute and two tries."""


class PrivateDaemon:
    """It starts with the block and is gone with it. In its own network namespace it cannot harm another's bridge."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="own-dockerd-"))  # the path of a socket must be short
        self.url = f"unix://{self.folder}/socket"
        self.engine = Engine(self.url)
        self.log = self.folder / "log"
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        if self._process is None:
            self.start()  # so that it ends what runs in its containers
        self._stop()
        self._end_containerd()
        for line in reversed(Path("/proc/self/mountinfo").read_text().splitlines()):
            if line.split()[4].startswith(str(self.folder)):
                subprocess.run(["umount", "-l", line.split()[4]], check=True)
        shutil.rmtree(self.folder)

    def start(self) -> float:
        """Start it, however many tries that takes; return how many seconds went by."""
        began = time.monotonic()
        while time.monotonic() < began + START_S:
            self._launch()
            while self._process is not None and self._process.poll() is None:
                if self.engine.answers():
                    return time.monotonic() - began
                assert time.monotonic() < began + START_S, self.log.read_text()[-3000:]
                time.sleep(0.1)
        raise AssertionError(self.log.read_text()[-3000:])

    def kill(self) -> None:
        """End it as the kernel does when memory is short; its containers run on."""
        assert self._process is not None
        self._process.send_signal(signal.SIGKILL)
        self._process.wait()
        self._process = None

    def _launch(self) -> None:
        program = shutil.which("dockerd")
        assert program is not None
        assert os.geteuid() == 0
        command = [program, "--storage-driver=overlay2", "--bridge=none", "--iptables=false", f"-H={self.url}"]
        for option, name in (("data-root", "data"), ("exec-root", "exec"), ("pidfile", "pid")):
            command.append(f"--{option}={self.folder}/{name}")
        with self.log.open("ab") as output:
            self._process = subprocess.Popen(
                ["unshare", "--net", *command], stdout=output, stderr=output, start_new_session=True
            )

    def _stop(self) -> None:
        if self._process is not None:
            self._process.terminate()
            try:
                self._process.wait(60)
            except subprocess.TimeoutExpired:
                self.kill()

    def _end_containerd(self) -> None:
        """End what a killed daemon has left behind."""
        with contextlib.suppress(FileNotFoundError, ProcessLookupError, ValueError):
            pid = int((self.folder / "exec" / "containerd" / "containerd.pid").read_text())
            if str(self.folder) in Path(f"/proc/{pid}/cmdline").read_text():
                os.kill(pid, signal.SIGKILL)
