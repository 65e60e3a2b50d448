"""The spawner: a small process with one thread that starts sandboxes, and commands in them, for the server.

The server itself must not fork: it has threads, and much memory. Namespaces, moreover, can only be joined by a process
that has one thread. Standard library only, so that it starts fast and stays small.

It reads messages from a socket: ``{"id", "do"}`` with descriptors, the first of which holds the request as JSON. It
answers ``{"id", "pid"}`` once a process was made (0: it was not) and ``{"id", "status"}`` when that has ended. When the
server goes, the commands are killed, for nobody reads their output any more. Sandboxes live on.
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import select
import signal
import socket
import struct
from typing import TYPE_CHECKING, Final, NoReturn

from thunderagent_core.environments.process.entering import enter
from thunderagent_core.environments.process.kernel import Kernel
from thunderagent_core.environments.process.launching import launch

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from thunderagent_core.environments.process.entering import EnterRequest

ENTER: Final = "enter"
LAUNCH: Final = "launch"
KILL: Final = "kill"

MAX_FDS: Final = 32
"""Descriptors with one message at most."""

_MESSAGE_BYTES: Final = 4096


def main(descriptor: int) -> None:
    """Serve until the server closes its end of the socket."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    with socket.socket(fileno=descriptor) as server:
        gc.disable()
        gc.freeze()  # children share the memory of all that exists by now
        _Spawner(server).run()


class _Spawner:
    def __init__(self, server: socket.socket) -> None:
        self._server = server
        self._kernel = Kernel()
        self._numbers: dict[int, int] = {}
        self._commands: dict[int, int] = {}
        self._woken, self._wake = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)

    def run(self) -> None:
        self._kernel.adopt_orphans()
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(self._wake, warn_on_full_buffer=False)
        poll = select.poll()
        poll.register(self._server, select.POLLIN)
        poll.register(self._woken, select.POLLIN)
        while True:
            events = dict(poll.poll())
            if self._woken in events:
                with contextlib.suppress(BlockingIOError):
                    os.read(self._woken, 4096)
                self._reap()
            if self._server.fileno() in events and not self._serve():
                break
        for pid in self._commands.values():
            self._kill(pid)

    def _serve(self) -> bool:
        message, fds = _receive(self._server)
        if not message:
            return False
        try:
            content = json.loads(message)
            if content["do"] == KILL:
                if pid := self._commands.get(content["id"]):
                    self._kill(pid)
            else:
                self._start(content["id"], content["do"], fds)
        finally:
            for fd in fds:
                os.close(fd)
        return True

    def _start(self, number: int, what: str, fds: Sequence[int]) -> None:
        request = json.loads(os.pread(fds[0], os.fstat(fds[0]).st_size, 0))
        try:
            if what == LAUNCH:
                pid = self._fork(lambda: launch(self._kernel, request, fds[1:]))
            else:
                pid = self._enter(request, fds[1:])
        except OSError:
            pid = 0
        if pid:
            self._numbers[pid] = number
            if what == ENTER:
                self._commands[number] = pid
        self._tell(id=number, pid=pid)

    def _enter(self, request: EnterRequest, fds: Sequence[int]) -> int:
        told, tell = os.pipe2(os.O_CLOEXEC)
        try:
            between = self._fork(lambda: enter(self._kernel, request, fds, tell))
        finally:
            os.close(tell)
        text = os.read(told, 32)  # it comes at once or never; the end of the pipe may be long in coming
        os.close(told)
        os.waitpid(between, 0)
        return int(text or b"0")

    def _fork(self, become: Callable[[], NoReturn]) -> int:
        pid = os.fork()
        if pid == 0:
            try:
                signal.set_wakeup_fd(-1)
                become()
            finally:
                os._exit(126)  # whatever happens, this must not go on as a second spawner
        return pid

    def _reap(self) -> None:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            number = self._numbers.pop(pid, None)  # None: an orphan that was left to us
            if number is not None:
                self._commands.pop(number, None)
                self._tell(id=number, status=os.waitstatus_to_exitcode(status))

    def _kill(self, pid: int) -> None:
        """Kill a command with its process group. It has not been reaped, so the number is still its own."""
        for kill in (os.killpg, os.kill):  # it may not have become the leader of its group yet
            with contextlib.suppress(ProcessLookupError, PermissionError):
                kill(pid, signal.SIGKILL)

    def _tell(self, **content: int) -> None:
        with contextlib.suppress(ConnectionError):
            self._server.send(json.dumps(content).encode())


def _receive(server: socket.socket) -> tuple[bytes, list[int]]:
    """Return a message and its descriptors, none of which passes on to programs; empty: the server ended."""
    room = socket.CMSG_LEN(MAX_FDS * struct.calcsize("i"))
    try:
        message, extras, _, _ = server.recvmsg(_MESSAGE_BYTES, room, socket.MSG_CMSG_CLOEXEC)
    except ConnectionError:  # it left answers unread
        return b"", []
    fds = [fd for _, kind, data in extras if kind == socket.SCM_RIGHTS for (fd,) in struct.iter_unpack("i", data)]
    return message, fds
