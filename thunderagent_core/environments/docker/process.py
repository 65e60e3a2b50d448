"""Commands in a container."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING, Final

from thunderagent_core.environments.base import ProviderUnavailableError
from thunderagent_core.environments.docker.errors import ENVIRONMENT_FROZEN, ENVIRONMENT_STOPPED, refusal
from thunderagent_core.environments.docker.hijack import start_exec

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import aiodocker
    from aiodocker.execs import Exec

    from thunderagent_core.environments.base import Stream
    from thunderagent_core.environments.docker.daemon import Daemon
    from thunderagent_core.environments.docker.hijack import Connection

_FIRST_PAUSE_S: Final = 0.005
_LONGEST_PAUSE_S: Final = 0.25
_NEVER_RAN: Final = 126
"""The status that shells give for a command that could not be started."""


class DockerProcess:
    """A command in a container; a ``Process``.

    Args:
        daemon: where it runs.
        execution: the daemon's record of it.
        connection: its standard streams.
        said: output that was already read.
    """

    def __init__(
        self, daemon: Daemon, execution: Exec, connection: Connection, said: Sequence[tuple[Stream, bytes]]
    ) -> None:
        self._daemon = daemon
        self._execution = execution
        self._connection = connection
        self._said = deque(said)

    async def write(self, data: bytes) -> None:
        """Feed its standard input. Raises ProviderError ``process_ended``."""
        await self._connection.write(data)

    async def close_input(self) -> None:
        """End its standard input; its output goes on."""
        await self._connection.end_input()

    async def read(self) -> tuple[Stream, bytes] | None:
        """Return the next piece of output, or None once both outputs have ended or the daemon has.

        The daemon also ends them two seconds after the command where children of it hold them open.
        """
        return self._said.popleft() if self._said else await self._connection.read()

    async def wait(self) -> int:
        """Return its exit status, 128 + N for signal N, 126 where it could not be started.

        Raises ProviderError ``process_lost`` where the daemon does not know it any more, and as ``Daemon.ask``.
        """
        pause_s = _FIRST_PAUSE_S
        while True:
            record = await self._daemon.ask(lambda _: self._execution.inspect())
            if not record["Running"]:
                status = record["ExitCode"]
                return _NEVER_RAN if status is None else int(status)
            await asyncio.sleep(pause_s)
            pause_s = min(_LONGEST_PAUSE_S, pause_s * 2)

    async def aclose(self) -> None:
        """Drop the connection; the command, if it runs, goes on."""
        await self._connection.aclose()


async def start_process(
    daemon: Daemon, container_id: str, command: Sequence[str], env: Mapping[str, str] | None, workdir: str | None
) -> DockerProcess:
    """Start a command and return once it runs. The daemon makes it the leader of a session of its own.

    A command that does not exist says so on its standard output and ends with 126 or 127.

    Raises as ``Daemon.act``, and ProviderError ``environment_frozen`` and ``environment_stopped``.
    """

    async def prepare(docker: aiodocker.Docker) -> tuple[Exec, str]:
        execution = await docker.containers.container(container_id).exec(
            list(command), stdin=True, environment=dict(env or {}), workdir=workdir
        )
        return execution, docker.api_version

    execution, api_version = await daemon.ask(prepare)
    connection = await start_exec(daemon, api_version, execution.id)
    try:
        async with asyncio.timeout(daemon.effect_timeout_s):
            said = [] if await _began(daemon, execution) else await _complaint(connection)
    except BaseException as error:
        await connection.aclose()
        if isinstance(error, TimeoutError):
            message = f"{daemon.url} did not start the command within {daemon.effect_timeout_s:g} s"
            raise ProviderUnavailableError(message) from error
        raise
    return DockerProcess(daemon, execution, connection, said)


async def _began(daemon: Daemon, execution: Exec) -> bool:
    """Wait until the command runs or has run; False: it cannot.

    The daemon opens the connection first. A container that were frozen in between would refuse the command.
    """
    pause_s = _FIRST_PAUSE_S
    while True:
        record = await daemon.ask(lambda _: execution.inspect())
        if record["Pid"] or record["ExitCode"] is not None:
            return bool(record["Pid"])
        await asyncio.sleep(pause_s)
        pause_s = min(_LONGEST_PAUSE_S, pause_s * 2)


async def _complaint(connection: Connection) -> list[tuple[Stream, bytes]]:
    """Return what the daemon says instead of the command. Raises ProviderError where that is about the container."""
    said = []
    while (piece := await connection.read()) is not None:
        said.append(piece)
    problem = refusal(0, b"".join(data for _, data in said).decode(errors="replace").strip())
    if problem.code in {ENVIRONMENT_FROZEN, ENVIRONMENT_STOPPED}:
        raise problem
    return said
