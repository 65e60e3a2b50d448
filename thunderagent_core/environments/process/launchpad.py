"""Starts sandboxes and waits until commands can be started in them."""

from __future__ import annotations

import asyncio
import contextlib
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec

from thunderagent_core.environments.base import ProviderError, ProviderUnavailableError
from thunderagent_core.environments.process import arguments
from thunderagent_core.environments.process.binary import unavailable
from thunderagent_core.environments.process.identity import Identity, children, identify, program
from thunderagent_core.environments.process.launching import PROGRAM, STAGE, Binding, LaunchRequest
from thunderagent_core.environments.process.records import Layer
from thunderagent_core.environments.process.rootfs import USER_ID, View, look_at_host, look_at_image, resolve_inside
from thunderagent_core.environments.process.waiting import finish, in_thread

if TYPE_CHECKING:
    from collections.abc import Sequence

    from thunderagent_core.environments.process.records import Record
    from thunderagent_core.environments.process.spawner import Child, Spawner
    from thunderagent_core.environments.process.store import Store

_POLL_S: Final = 0.001
_LAUNCH_S: Final = 20.0
_REPORTED_BYTES: Final = 2_000
_ENTERABLE: Final = 0o755
_ANYWHERE: Final = "/tmp"  # noqa: S108 - a place to mount something on, in a sandbox
_OURS: Final = ("bwrap: ", "launch: ")
"""What lines of the log begin with that are not the main program's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Host:
    """How sandboxes can be made here.

    Args:
        bwrap: the program.
        user: the host's user that stands for all sandboxes' users; None: whoever runs the server.
        mark: goes into the marker of every sandbox, so that those of another root are told apart.
    """

    bwrap: Path
    user: int | None
    mark: str

    def marker(self, handle: str) -> str:
        """Return what bubblewrap's processes for a sandbox carry in their environment."""
        return f"{handle}@{self.mark}"


class _Facts(msgspec.Struct, rename="kebab"):
    child_pid: int


class Launchpad:
    """Starts sandboxes.

    Args:
        spawner: makes the processes.
        store: where environments' files are.
        host: how sandboxes can be made.
    """

    def __init__(self, spawner: Spawner, store: Store, host: Host) -> None:
        self._spawner = spawner
        self._store = store
        self._host = host

    async def check(self) -> None:
        """Make a sandbox that ends at once. Raises ProviderError ``bubblewrap_unavailable`` where that fails."""
        log = await self._try(["--ro-bind", "/", "/", "--proc", "/proc", "--dev", "/dev"], [])
        if log is not None:
            raise unavailable(f"bubblewrap cannot make a sandbox on this host: {log or 'no reason was given'}")

    async def can_overlay(self, root: Path) -> bool:
        """Whether files below ``root`` can lie over an image, found out by trying."""
        with tempfile.TemporaryDirectory(dir=root, prefix="overlay-", ignore_cleanup_errors=True) as scratch:
            for path in (Path(scratch), *(Path(scratch) / name for name in ("image", "upper", "work"))):
                path.mkdir(exist_ok=True)
                path.chmod(_ENTERABLE)
                if self._host.user is not None:
                    os.chown(path, self._host.user, self._host.user)
            place = f"{STAGE}/scratch" if self._host.user is not None else scratch
            lie = ["--overlay-src", f"{place}/image", "--overlay", f"{place}/upper", f"{place}/work", _ANYWHERE]
            bindings = [Binding(source=scratch, target=place, owned=False)]
            return await self._try(["--ro-bind", "/", "/", *lie], bindings) is None

    async def launch(self, record: Record, groups: Sequence[Path]) -> Record:
        """Start a sandbox, and return the record with its processes once commands can be started in it.

        A caller who is cancelled is held up until it is known which processes there are.

        Raises:
            ProviderError: it did not start; the text says why.
            ProviderUnavailableError: it is not known whether it did.
        """
        return await finish(self._launch(record, groups))

    async def _launch(self, record: Record, groups: Sequence[Path]) -> Record:
        options, bindings = await in_thread(self._options, record)
        request = self._request(record.handle, record.spec.command or arguments.IDLE, bindings)
        with contextlib.ExitStack() as stack:
            log = os.open(self._store.log(record.handle), os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND, 0o600)
            stack.callback(os.close, log)
            facts = os.memfd_create("facts")
            stack.callback(os.close, facts)
            child = await self._start(request, options, log, facts, idle=record.spec.command is None, files=groups)
            try:
                async with asyncio.timeout(_LAUNCH_S):
                    init = await self._init(child, facts)
                    if init is None or not await self._is_ready(child, init):
                        raise self._failure(await child.status, log)
                    monitor = identify(await child.pid)
            except TimeoutError:
                raise ProviderUnavailableError(f"{record.handle} takes too long to start") from None
        return msgspec.structs.replace(record, init=init, monitor=monitor, launching=False)

    def _options(self, record: Record) -> tuple[list[str], list[Binding]]:
        spec, upper = record.spec, self._store.upper(record.handle)
        image = Path(spec.image) if spec.image is not None else None
        for mount in spec.mounts:
            if not Path(mount.source).exists():
                raise ProviderError(f"{mount.source} is not there", code="mount_source_missing", permanent=True)
        view = View({}, {})
        if image is None:
            view = look_at_host(networked=spec.networked)
        elif record.layer is Layer.BINDS:
            view = look_at_image(image)
        sources, bindings = self._sources(record, view)
        layers = [upper, image] if image is not None and record.layer is Layer.OVERLAY else [upper]
        options = arguments.options(
            record, sources, own_user=self._host.user is not None, resolve=lambda path: resolve_inside(layers, path)
        )
        return options, bindings

    def _sources(self, record: Record, view: View) -> tuple[arguments.Sources, list[Binding]]:
        """Return where bubblewrap will find things: for a user of its own, on the stage."""
        layer, image = str(self._store.layer(record.handle)), record.spec.image
        mounts = [mount.source for mount in record.spec.mounts]
        if self._host.user is None:
            return arguments.Sources(layer=layer, image=image, mounts=mounts, view=view), []
        stage = f"{STAGE}/{record.handle}"
        staged = [f"{stage}/mount-{index}" for index in range(len(mounts))]
        bindings = [Binding(source=layer, target=f"{stage}/layer", owned=False)]
        bindings += [Binding(source=a, target=b, owned=False) for a, b in zip(mounts, staged, strict=True)]
        if image is not None:
            bindings.append(Binding(source=image, target=f"{stage}/image", owned=True))
        below = None if image is None else f"{stage}/image"
        return arguments.Sources(layer=f"{stage}/layer", image=below, mounts=staged, view=view), bindings

    def _request(self, handle: str, command: Sequence[str], bindings: list[Binding]) -> LaunchRequest:
        return LaunchRequest(
            bwrap=str(self._host.bwrap),
            command=list(command),
            marker=self._host.marker(handle),
            user=USER_ID,
            host_user=self._host.user,
            bindings=bindings,
        )

    async def _start(
        self,
        request: LaunchRequest,
        options: list[str],
        log: int,
        facts: int,
        *,
        idle: bool,
        files: Sequence[Path] = (),
    ) -> Child:
        with contextlib.ExitStack() as stack:
            words = os.memfd_create("arguments")
            stack.callback(os.close, words)
            with os.fdopen(words, "wb", closefd=False) as file:
                file.write(b"".join(os.fsencode(word) + b"\0" for word in options))
            os.lseek(words, 0, os.SEEK_SET)
            nothing = os.open(os.devnull, os.O_RDWR)
            stack.callback(os.close, nothing)
            stdin, keep = _pipe(stack) if idle else (nothing, nothing)
            groups = [os.open(path, os.O_WRONLY) for path in files]
            for group in groups:
                stack.callback(os.close, group)
            child = await self._spawner.launch(request, (words, facts, log, stdin, keep, *groups))
            await child.pid
            return child

    async def _init(self, child: Child, facts: int) -> Identity | None:
        """Wait until bubblewrap says which process is the first inside; None: it ended first, or that one did.

        It writes this to a file in memory. It would not survive writing to a pipe that nobody reads any more, and leave
        a process behind that waits for it for ever.
        """
        while not child.status.done():
            answer = os.pread(facts, _REPORTED_BYTES, 0)
            if answer.rstrip().endswith(b"}"):
                return identify(msgspec.json.decode(answer, type=_Facts).child_pid)
            await asyncio.sleep(_POLL_S)
        return None

    async def _is_ready(self, child: Child, init: Identity) -> bool:
        """Wait until the main program runs, when all is mounted; False: bubblewrap has ended.

        Nothing signals this moment, so it is looked for; it comes after a few milliseconds.
        """
        while not child.status.done():
            for pid in children(init.pid):
                if program(pid) not in {PROGRAM, None}:
                    return True
            await asyncio.sleep(_POLL_S)
        return False

    def _failure(self, status: int, log: int) -> ProviderError:
        text = os.pread(log, _REPORTED_BYTES, 0).decode(errors="replace").strip()
        if not text.startswith(_OURS):
            text = text[-_REPORTED_BYTES:]
            return ProviderError(f"the main program ended with {status}: {text}", code="main_program_ended")
        if "execvp" in text:
            return ProviderError(text, code="command_not_found", permanent=True)
        return ProviderError(text, code="sandbox_failed")

    async def _try(self, options: list[str], bindings: list[Binding]) -> str | None:
        """Run a program in a sandbox to its end; None: it went well, else what was complained of."""
        return await finish(self._run_to_end(options, bindings))

    async def _run_to_end(self, options: list[str], bindings: list[Binding]) -> str | None:
        isolation = arguments.namespaces(own_user=self._host.user is not None, networked=False)
        with contextlib.ExitStack() as stack:
            log = os.memfd_create("log")
            stack.callback(os.close, log)
            request = self._request("probe", ("/bin/sh", "-c", ":"), bindings)
            child = await self._start(request, isolation + options, log, log, idle=False)
            try:
                async with asyncio.timeout(_LAUNCH_S):
                    status = await asyncio.shield(child.status)
            except TimeoutError:
                raise ProviderUnavailableError("bubblewrap does not end") from None
            return None if status == 0 else os.pread(log, _REPORTED_BYTES, 0).decode(errors="replace").strip()


def _pipe(stack: contextlib.ExitStack) -> tuple[int, int]:
    ends = os.pipe()
    for end in ends:
        stack.callback(os.close, end)
    return ends
