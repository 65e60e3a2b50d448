"""One tool environment of a program, from a client's side, with ``await``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from thunderagent_core.client import environment_calls as calls
from thunderagent_core.client.environment_calls import Command
from thunderagent_core.client.environment_views import CommandFailedError, ExecResult, exec_piece
from thunderagent_core.client.errors import StreamInterruptedError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping, Sequence

    from thunderagent_core.client.async_client import AsyncClient
    from thunderagent_core.client.environment_views import EnvironmentView, ExecOutput


class AsyncEnvironment:
    """Like ``Environment``, with ``await``."""

    def __init__(self, client: AsyncClient, program_id: str, name: str) -> None:
        self._client = client
        self.program_id = program_id
        self.name = name

    def __repr__(self) -> str:
        return f"AsyncEnvironment({self.program_id!r}, {self.name!r})"

    async def exec(
        self,
        command: str | Sequence[str],
        *,
        workdir: str | None = None,
        env: Mapping[str, str] | None = None,
        timeout_s: float | None = None,
        wait_s: float = 300.0,
        output_limit_bytes: int | None = None,
        check: bool = False,
    ) -> ExecResult:
        """Run a command and return how it ended, with its output.

        Args:
            command: text for the shell, or a program and its arguments.
            workdir: where; by default the environment's own working directory.
            env: variables on top of the environment's.
            timeout_s: longest running time in seconds; its whole process group is ended then.
            wait_s: for how long to wait until the environment runs, in seconds.
            output_limit_bytes: bytes kept of each of its outputs: the beginning and the end.
            check: raise CommandFailedError where it ends with another status than 0.
        """
        what = Command(
            command=command,
            workdir=workdir,
            env=env or {},
            timeout_s=timeout_s,
            wait_s=wait_s,
            output_limit_bytes=output_limit_bytes,
        )
        result = await self._client.run(calls.run(self.program_id, self.name, what))
        if check and result.exit_code != 0:
            raise CommandFailedError(command, result)
        return result

    async def stream(
        self,
        command: str | Sequence[str],
        *,
        workdir: str | None = None,
        env: Mapping[str, str] | None = None,
        timeout_s: float | None = None,
        wait_s: float = 300.0,
    ) -> AsyncIterator[ExecOutput | ExecResult]:
        """Run a command and yield its output as it comes, then its result. Leaving early ends the command."""
        what = Command(command=command, workdir=workdir, env=env or {}, timeout_s=timeout_s, wait_s=wait_s)
        async with await self._client.open_stream(calls.stream(self.program_id, self.name, what)) as items:
            async for item in items:
                piece = exec_piece(item)
                yield piece
                if isinstance(piece, ExecResult):
                    return
        raise StreamInterruptedError("the stream ended before the command did")

    async def upload(self, path: str, data: bytes | str, *, mode: int = 0o644) -> None:
        """Write a file, whole or not at all; directories above it are made. Text is written as UTF-8."""
        content = data.encode() if isinstance(data, str) else data
        await self._client.run(calls.upload(self.program_id, self.name, path, content, mode))

    async def download(self, path: str) -> bytes:
        """Return the content of a file."""
        return await self._client.run(calls.download(self.program_id, self.name, path))

    async def wait_ready(self, timeout_s: float = 300.0) -> EnvironmentView:
        """Wait until it runs, having it made or brought back where needed; its ports are known then."""
        return await self._client.run(calls.look(self.program_id, self.name, wait_s=timeout_s))

    async def view(self) -> EnvironmentView:
        """Return what the server knows of it."""
        return await self._client.run(calls.look(self.program_id, self.name))

    async def snapshot(self) -> EnvironmentView:
        """Put it aside: its files are kept, everything else is given back until it is used again."""
        return await self._client.run(calls.snapshot(self.program_id, self.name))

    async def delete(self) -> None:
        """Have it taken back before its program ends."""
        await self._client.run(calls.delete(self.program_id, self.name))
