"""A server that is killed at one point of a story, and what has to hold after the next one has started."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import re
import select
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

PATIENCE_S = 100.0
_LONG_S = 0.01
"""Of what takes longer than this, the middle is a point as well."""
LAUNCHER = Path(__file__).with_name("kill_server.py")


def until(condition: Callable[[], Any], what: str, within_s: float = PATIENCE_S) -> Any:
    """Wait until something holds, and return it."""
    deadline = time.monotonic() + within_s
    while not (found := condition()):
        assert time.monotonic() < deadline, f"it did not come to this: {what}"
        time.sleep(0.02)
    return found


class Died(Exception):  # noqa: N818 - no error: it is what was wanted
    """The server has ended without an answer."""


class Refused(AssertionError):  # noqa: N818
    """The server answered with an error."""

    def __init__(self, status: int, content: Any) -> None:
        super().__init__(f"{status}: {content}")
        self.status = status
        self.code = content["error"]["code"]


class Forge:
    """The process that servers are forked from."""

    def __init__(self) -> None:
        command = [sys.executable, str(LAUNCHER)]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self._lock = threading.Lock()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.communicate()

    def fork(self, order: Mapping[str, Any]) -> tuple[int, int]:
        """Start a server; return its number and a descriptor that stands for it."""
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None
        assert stdout is not None
        with self._lock:  # its number is not given to another before the next order
            stdin.write(json.dumps(order) + "\n")
            stdin.flush()
            pid = int(stdout.readline())
            return pid, os.pidfd_open(pid)


class Server:
    """One server process."""

    def __init__(self, forge: Forge, folder: Path, arguments: Sequence[str], kill: str | None, after_s: float) -> None:
        number = len(list(folder.glob("*.log")))
        self.log = folder / f"{number}.log"
        self.journal = folder / f"{number}.journal"
        self.log.touch()
        standard = ["--port", "0", "--state-dir", str(folder / "state"), "--shutdown-grace-s", "0"]
        order = {
            "arguments": [*standard, *arguments],
            "log": str(self.log),
            "journal": str(self.journal),
            "kill": kill,
            "after_s": after_s,
        }
        self.pid, self._end = forge.fork(order)
        found = until(lambda: self._ended() or re.search(r"http://127.0.0.1:(\d+)", self.log.read_text()), "it listens")
        self.port = 0 if found is True else int(found[1])

    def _ended(self) -> bool:
        return bool(select.select([self._end], [], [], 0)[0])

    def call(self, method: str, path: str, content: Any = None) -> Any:
        """Send a request. Raises Died, Refused."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE_S)
        try:
            connection.request(method, path, None if content is None else json.dumps(content))
            answer = connection.getresponse()
            text = answer.read()
        except (OSError, http.client.HTTPException):
            if not select.select([self._end], [], [], 5.0)[0]:
                raise
            raise Died from None
        finally:
            connection.close()
        if answer.status >= 400:
            raise Refused(answer.status, json.loads(text))
        return json.loads(text)

    def exec(self, program: str, name: str, command: str) -> str:
        """Run a command that succeeds; return its output."""
        said = self.call("POST", f"/programs/{program}/environments/{name}/exec", {"command": command})
        assert said["exit_code"] == 0, said
        return str(said["stdout"])

    def state(self, program: str, name: str) -> str:
        found = [one for one in self.environments() if (one["program_id"], one["name"]) == (program, name)]
        return str(found[0]["state"]) if found else "gone"

    def environments(self) -> list[dict[str, Any]]:
        return list(self.call("GET", "/environments")["environments"])

    def programs(self) -> set[str]:
        return {one["program_id"] for one in self.call("GET", "/programs")["programs"]}

    def send(self, number: signal.Signals) -> None:
        if self._ended():
            raise Died
        signal.pidfd_send_signal(self._end, number)

    def wait(self) -> None:
        """Wait for its end."""
        assert select.select([self._end], [], [], PATIENCE_S)[0], "it does not end"

    def stop(self, number: signal.Signals = signal.SIGTERM) -> None:
        """End it, and wait until it has."""
        with contextlib.suppress(Died):
            self.send(number)
        self.wait()
        os.close(self._end)

    def points(self) -> list[str]:
        """Return what it wrote down."""
        return self.journal.read_text().splitlines() if self.journal.exists() else []


@dataclass
class Story:
    """What a client asked for, and what was acknowledged.

    Args:
        specs: by name: what the environments of the program ``p`` are to be.
    """

    specs: Mapping[str, Mapping[str, Any]]
    registered: bool = False
    released: bool = False
    """Its release was asked for."""
    over: bool = False
    """Its release was acknowledged."""
    deleted: set[str] = field(default_factory=set)
    kept: dict[str, set[str]] = field(default_factory=dict)
    """What the file of each environment may hold."""

    def tell(self, server: Server) -> None:
        """Lead a program through every operation. Raises Died."""
        server.call("POST", "/programs", {"program_id": "p", "environments": list(self.specs.values())})
        self.registered = True
        for name in self.specs:
            server.call("GET", f"/programs/p/environments/{name}?wait_s=100")
        self._write(server, "shell", "one")
        server.send(signal.SIGUSR1)
        until(lambda: self._reached(server, "after freeze #2"), "they are frozen")
        server.send(signal.SIGUSR2)
        until(lambda: self._reached(server, "after thaw #2"), "they are thawed")
        self._write(server, "shell", "two")
        for text in ("three", "four"):
            server.call("POST", "/programs/p/environments/shell/snapshot")
            self._quiet(server)
            self._write(server, "shell", text)
            self._quiet(server)
        self._delete(server, "other")
        self.released = True
        server.call("DELETE", "/programs/p")
        self.over = True
        self._quiet(server, end=True)

    def _write(self, server: Server, name: str, text: str) -> None:
        self.kept[name] = self.kept.get(name, {""}) | {text}
        server.exec("p", name, f"printf {text} > file.new && mv file.new file")
        self.kept[name] = {text}

    def _delete(self, server: Server, name: str) -> None:
        self.deleted.add(name)
        server.call("DELETE", f"/programs/p/environments/{name}")
        until(lambda: server.state("p", name) == "gone", "it is taken back")

    def _reached(self, server: Server, point: str) -> bool:
        return bool(server.environments()) and point in server.points()

    def _quiet(self, server: Server, *, end: bool = False) -> None:
        """Wait until nothing is being taken back, so that the next points come after those of this step."""
        until(lambda: not server.call("POST", "/environments/reap", {"dry_run": True})["items"], "nothing is reaped")
        if end:
            until(lambda: not server.environments(), "nothing is left")

    def check(self, server: Server) -> None:
        """Nothing that lives is lost, what is over stays over; then end what lives, until nothing is there."""
        live = server.programs()
        if self.over:
            assert not live
        elif self.registered and not self.released:
            assert live == {"p"}
        for name in self.specs if live else ():
            if name not in self.deleted:
                self._check(server, name)
        for program in live:
            server.call("DELETE", f"/programs/{program}")
        self._quiet(server, end=True)

    def _check(self, server: Server, name: str) -> None:
        assert server.exec("p", name, "cat made") == "made\n"
        assert server.exec("p", name, "cat file 2>/dev/null || true") in self.kept.get(name, {""})


@dataclass(frozen=True)
class Kill:
    """Where a server is killed."""

    point: str
    after_s: float = 0.0


@dataclass(kw_only=True)
class Trial:
    """A story that is told again and again, each time with a death at another point.

    Args:
        folder: for files.
        specs: as in ``Story``.
        arguments: of the server.
        remains: returns what is there of the installation that a state directory belongs to.
    """

    forge: Forge
    folder: Path
    specs: Mapping[str, Mapping[str, Any]]
    arguments: Sequence[str]
    remains: Callable[[Path, str], list[str]]

    def count(self) -> list[Kill]:
        """Tell it without a death, and return where it could have come."""
        folder = self.folder / "count"
        server, story = self._told(folder, None)
        assert story.over
        server.stop(signal.SIGKILL)
        points = server.points()
        self._recover(folder, story)
        kills = [Kill(one) for one in points if one.startswith(("before", "after"))]
        for one in points:
            name, _, duration = one.partition(" = ")
            if duration and float(duration) > _LONG_S:
                kills.append(Kill(name, float(duration) / 2))
        return kills

    def kill_at(self, number: int, kill: Kill) -> None:
        """Tell it up to a death there; start another server, check, and look for leaks."""
        folder = self.folder / str(number)
        try:
            server, story = self._told(folder, kill)
            server.wait()
            assert server.points()[-1] == "killed", server.points()
            self._recover(folder, story)
        except AssertionError as error:
            error.add_note(f"killed at {kill}")
            for log in sorted(folder.glob("*.log")):
                error.add_note(f"{log.name}:\n{log.read_text()[-3000:]}")
            raise

    def _told(self, folder: Path, kill: Kill | None) -> tuple[Server, Story]:
        folder.mkdir()
        point, after_s = (None, 0.0) if kill is None else (kill.point, kill.after_s)
        server = Server(self.forge, folder, self.arguments, point, after_s)
        story = Story(self.specs)
        with contextlib.suppress(Died):
            story.tell(server)
        return server, story

    def _recover(self, folder: Path, story: Story) -> None:
        server = Server(self.forge, folder, self.arguments, None, 0.0)
        story.check(server)
        server.stop()
        self.assert_nothing_left(folder / "state")

    def assert_nothing_left(self, state: Path) -> None:
        """Nothing is left on record, and nothing outside."""
        installation = assert_ledger_is_empty(state / "environments.sqlite")
        until(lambda: not self.remains(state, installation), f"nothing remains: {self.remains(state, installation)}")


def assert_ledger_is_empty(path: Path) -> str:
    """Everything on record is over; return the installation's id."""
    with contextlib.closing(sqlite3.connect(path)) as ledger:
        ((installation,),) = ledger.execute("SELECT id FROM installation")
        assert {one for (one,) in ledger.execute("SELECT state FROM environments")} <= {"gone"}
        for table in ("ports", "snapshots"):
            assert ledger.execute(f"SELECT * FROM {table}").fetchall() == []
        assert ledger.execute("SELECT * FROM programs WHERE ended_at IS NULL").fetchall() == []
    return str(installation)


def try_all(trial: Trial, kills: Sequence[Kill], *, at_once: int = 3) -> int:
    """Kill at each of these points; return how many were tried. Raises what went wrong, all of it."""
    with ThreadPoolExecutor(at_once) as pool:
        tries = [pool.submit(trial.kill_at, number, kill) for number, kill in enumerate(kills)]
    problems = [error for error in (one.exception() for one in tries) if error is not None]
    if problems:
        raise BaseExceptionGroup(f"{len(problems)} of {len(tries)} points", problems)
    return len(tries)
