"""The command line, in this process and as a process of its own."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
from contextlib import contextmanager

from typer.testing import CliRunner

from thunderagent_core.cli import build_app

OURS = "THUNDERAGENT_"
LISTENS = r"listens on (http://\S+:\d+)"
SIMULATES = r"SIMULATED engine.*(http://\S+:\d+)"

PATIENT_S = 200.0
"""Bounds waits for what must happen; only a failing test ever waits this long."""

# A shell that runs us in the background has interrupts ignored, which processes inherit.
INTERRUPTIBLE = """
import os, signal, sys
signal.signal(signal.SIGINT, signal.SIG_DFL)
os.execv(sys.argv[1], sys.argv[1:])
"""


def clean_environment(**variables):
    """Our environment without anybody's settings, on a screen that is wide enough."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(OURS)}
    return {**kept, "COLUMNS": "240", "TERMINAL_WIDTH": "240", "NO_COLOR": "1", **variables}


def cli(*arguments, **variables):
    """Run a command in this process."""
    gone = {name: None for name in os.environ if name.startswith(OURS)}
    env = {**gone, "COLUMNS": "240", "TERMINAL_WIDTH": "240", "NO_COLOR": "1", **variables}
    return CliRunner().invoke(build_app(), [str(argument) for argument in arguments], env=env)


def words(text):
    """Text without line breaks and the frames of help pages."""
    return " ".join(re.sub(r"[│╭╮╰╯─]", " ", text).split())


def command(*arguments):
    return [sys.executable, "-m", "thunderagent_core", *map(str, arguments)]


class Process:
    """A command as a process; its output is read as it comes."""

    def __init__(self, *arguments, **variables):
        self.popen = subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", INTERRUPTIBLE, *command(*arguments)],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=clean_environment(PYTHONUNBUFFERED="1", **variables),
        )
        self.lines = []

    def wait_for(self, pattern):
        """Read lines until one matches; return the match, or its group."""
        with self._killed_if_silent():
            for line in self.popen.stdout:
                self.lines.append(line)
                if found := re.search(pattern, line):
                    return found.group(found.lastindex or 0)
        raise AssertionError("the output ended:\n" + "".join(self.lines))

    def end(self, number=signal.SIGTERM):
        """Send a signal and return the exit status."""
        self.popen.send_signal(number)
        return self.join()

    def join(self):
        """Read the rest and return the exit status."""
        with self._killed_if_silent():
            self.lines.extend(self.popen.stdout)
        return self.popen.wait(PATIENT_S)

    @contextmanager
    def _killed_if_silent(self):
        """Bound a wait for output: that of a killed process ends. While nobody waits the process may live on."""
        killer = threading.Timer(PATIENT_S, self.popen.kill)
        killer.start()
        try:
            yield
        finally:
            killer.cancel()

    @property
    def output(self):
        return "".join(self.lines)


@contextmanager
def running(*arguments, **variables):
    """Run a command until the block ends, at the latest."""
    process = Process(*arguments, **variables)
    try:
        yield process
    finally:
        if process.popen.poll() is None:
            process.popen.kill()
        process.popen.stdout.close()
        process.popen.wait(PATIENT_S)
