"""The server's side of the spawner."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

import thunderagent_core
from thunderagent_core.environments.base import ProviderUnavailableError
from thunderagent_core.environments.process.spawner_main import ENTER, KILL, LAUNCH

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from thunderagent_core.environments.process.entering import EnterRequest
    from thunderagent_core.environments.process.launching import LaunchRequest

_BOOT: Final = (
    "import sys; sys.path.insert(0, sys.argv[1]); "
    "from thunderagent_core.environments.process.spawner_main import main; main(int(sys.argv[2]))"
)
_MESSAGE_BYTES: Final = 4096
_BUSY_S: Final = 0.001
_END_S: Final = 5.0


class Child:
    """A process that the spawner made.

    Args:
        number: what it is called between server and spawner.
    """

    def __init__(self, number: int) -> None:
        loop = asyncio.get_running_loop()
        self.number = number
        self.pid: asyncio.Future[int] = loop.create_future()
        """Its number on this host; 0 where it could not be made."""
        self.status: asyncio.Future[int] = loop.create_future()
        """Its exit status, -N where signal N ended it."""

    def lose(self) -> None:
        """Nothing more will be heard of it."""
        for future in (self.pid, self.status):
            if not future.done():
                future.set_exception(ProviderUnavailableError("the process that starts commands has ended"))
                future.exception()  # whoever waits still gets it; nobody has to


class Spawner:
    """Starts the spawner when it is needed first, and again should it have ended."""

    def __init__(self) -> None:
        self._lock = asyncio.Lock()
        self._socket: socket.socket | None = None
        self._process: asyncio.subprocess.Process | None = None
        self._children: dict[int, Child] = {}
        self._last_number = 0

    async def launch(self, request: LaunchRequest, fds: Sequence[int]) -> Child:
        """Start a sandbox. The descriptors are copied, so the caller closes its own."""
        return await self._start(LAUNCH, request, fds)

    async def enter(self, request: EnterRequest, fds: Sequence[int]) -> Child:
        """Start a command in a sandbox. The descriptors are copied, so the caller closes its own."""
        return await self._start(ENTER, request, fds)

    async def kill(self, child: Child) -> None:
        """Kill a command with its process group, unless it has ended."""
        if not child.status.done():
            with contextlib.suppress(ProviderUnavailableError):
                await self._send({"id": child.number, "do": KILL}, ())

    async def aclose(self) -> None:
        """End the spawner, which kills the commands that it started but not the sandboxes."""
        async with self._lock:
            self._lose()
            if self._process is not None:
                try:
                    async with asyncio.timeout(_END_S):
                        await self._process.wait()
                except TimeoutError:
                    self._process.kill()
                    await self._process.wait()
                self._process = None

    async def _start(self, what: str, request: LaunchRequest | EnterRequest, fds: Sequence[int]) -> Child:
        await self._ensure()
        self._last_number += 1
        child = self._children[self._last_number] = Child(self._last_number)
        content = os.memfd_create("request")
        try:
            _write(content, json.dumps(request).encode())
            await self._send({"id": child.number, "do": what}, (content, *fds))
        except BaseException:
            self._children.pop(child.number, None)
            raise
        finally:
            os.close(content)
        return child

    async def _send(self, message: Mapping[str, object], fds: Sequence[int]) -> None:
        data = json.dumps(message).encode()
        while self._socket is not None:
            try:
                socket.send_fds(self._socket, [data], list(fds))
            except BlockingIOError:
                await asyncio.sleep(_BUSY_S)
            except OSError:
                self._lose()
            else:
                return
        raise ProviderUnavailableError("the process that starts commands has ended")

    async def _ensure(self) -> None:
        async with self._lock:
            if self._socket is not None:
                return
            if self._process is not None:
                await self._process.wait()
            ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            ours.setblocking(False)
            with theirs:
                try:
                    self._process = await self._run(theirs.fileno())
                except BaseException:
                    ours.close()
                    raise
            self._socket = ours
            asyncio.get_running_loop().add_reader(ours, self._receive, ours)

    async def _run(self, descriptor: int) -> asyncio.subprocess.Process:
        root = str(Path(thunderagent_core.__file__).parent.parent)
        return await asyncio.create_subprocess_exec(
            sys.executable,
            *("-I", "-S", "-c", _BOOT, root, str(descriptor)),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            pass_fds=(descriptor,),
            env={},  # what it forks could be looked into by a sandbox if all else failed: no secrets
            cwd="/",
            start_new_session=True,
        )

    def _receive(self, ours: socket.socket) -> None:
        while True:
            try:
                data = ours.recv(_MESSAGE_BYTES)
            except BlockingIOError:
                return
            except OSError:
                data = b""
            if not data:
                self._lose()
                return
            self._note(json.loads(data))

    def _note(self, message: Mapping[str, int]) -> None:
        child = self._children.get(message["id"])
        if child is None:
            return
        if "pid" in message and not child.pid.done():
            child.pid.set_result(message["pid"])
        if "status" in message or message.get("pid") == 0:
            del self._children[child.number]
            if not child.status.done():
                child.status.set_result(message.get("status", 127))

    def _lose(self) -> None:
        if self._socket is not None:
            asyncio.get_running_loop().remove_reader(self._socket)
            self._socket.close()
            self._socket = None
        for child in self._children.values():
            child.lose()
        self._children.clear()


def _write(descriptor: int, data: bytes) -> None:
    """Write all to a file in memory."""
    with os.fdopen(descriptor, "wb", closefd=False) as file:
        file.write(data)
