"""Starts commands in sandboxes."""

from __future__ import annotations

import contextlib
import os
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Final

import msgspec

from thunderagent_core.environments.base import ProviderError, Stream
from thunderagent_core.environments.process import kernel
from thunderagent_core.environments.process.arguments import environment_variables
from thunderagent_core.environments.process.entering import EnterRequest
from thunderagent_core.environments.process.identity import open_process
from thunderagent_core.environments.process.rootfs import USER_ID
from thunderagent_core.environments.process.streams import SandboxProcess
from thunderagent_core.environments.process.waiting import read_answer

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from thunderagent_core.environments.process.records import Record
    from thunderagent_core.environments.process.spawner import Spawner

_NAMESPACES: Final = kernel.NEW_USER | kernel.NEW_MOUNTS | kernel.NEW_PID | kernel.NEW_IPC | kernel.NEW_UTS
_CODES: Final = {"command": "command_not_found", "workdir": "workdir_not_found", "namespaces": "environment_stopped"}


class _Failure(msgspec.Struct):
    step: str
    code: int
    text: str


async def start_command(
    spawner: Spawner,
    record: Record,
    command: Sequence[str],
    *,
    env: Mapping[str, str],
    workdir: str | None,
    groups: Sequence[Path],
    limits: list[tuple[int, int]],
    drop_groups: bool,
) -> SandboxProcess:
    """Start a command in a sandbox that is alive, and return once its program runs.

    Raises:
        ProviderError: ``environment_stopped``, ``command_not_found``, ``workdir_not_found`` or ``spawn_failed``.
    """
    request = EnterRequest(
        argv=list(command),
        env={**environment_variables(record), **env},
        workdir=str(PurePosixPath(record.spec.workdir, workdir or "")),
        make_workdir=workdir is None,
        namespaces=_NAMESPACES if record.spec.networked else _NAMESPACES | kernel.NEW_NETWORK,
        user=USER_ID,
        drop_groups=drop_groups,
        limits=limits,
    )
    init = open_process(record.init) if record.init is not None else None
    if init is None:
        raise ProviderError(f"{record.handle} does not run", code="environment_stopped")
    with contextlib.ExitStack() as stack:
        stack.callback(os.close, init)
        return await _start(spawner, request, init, groups, stack)


async def _start(
    spawner: Spawner, request: EnterRequest, init: int, groups: Sequence[Path], stack: contextlib.ExitStack
) -> SandboxProcess:
    theirs = contextlib.ExitStack()
    stack.enter_context(theirs)
    failures, tell = _pipe(stack, theirs)
    stdin, feed = _pipe(theirs, stack)
    outputs = [_pipe(stack, theirs) for _ in Stream]
    entrances = [os.open(path, os.O_WRONLY) for path in groups]
    for entrance in entrances:
        theirs.callback(os.close, entrance)
    child = await spawner.enter(request, (init, tell, stdin, *(end for _, end in outputs), *entrances))
    try:
        theirs.close()
        pid = await child.pid
        problem = await read_answer(failures)
    except BaseException:
        await spawner.kill(child)
        raise
    if problem or not pid:
        raise _error(problem, request["argv"][0])
    os.close(failures)
    os.close(init)
    stack.pop_all()
    ours = dict(zip(Stream, (end for end, _ in outputs), strict=True))
    return SandboxProcess(child, spawner.kill, feed, ours)


def _pipe(reader: contextlib.ExitStack, writer: contextlib.ExitStack) -> tuple[int, int]:
    """Return a pipe whose ends are closed by one stack each."""
    ends = os.pipe()
    reader.callback(os.close, ends[0])
    writer.callback(os.close, ends[1])
    return ends


def _error(problem: bytes, program: str) -> ProviderError:
    if not problem:
        return ProviderError("the host has no room for another process", code="spawn_failed")
    failure = msgspec.json.decode(problem, type=_Failure)
    text = f"{program} cannot be started ({failure.step}): {failure.text}"
    return ProviderError(text, code=_CODES.get(failure.step, "spawn_failed"), permanent=failure.step == "command")
