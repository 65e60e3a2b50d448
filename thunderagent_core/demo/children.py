"""Servers as child processes: started, awaited until they listen, and ended with their parent whatever happens."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import sys
import tempfile
from typing import IO, TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

_MODULE: Final = "thunderagent_core.cli.guarded"
_URL: Final = re.compile(r"https?://\S+")
_START_S: Final = 120.0
_STOP_S: Final = 5.0
_TAIL_BYTES: Final = 2000


class ChildError(Exception):
    """A child process did not start to listen; the text holds the end of what it printed."""


@contextlib.asynccontextmanager
async def child(*arguments: str) -> AsyncIterator[str]:
    """Run ``thunderagent`` with these arguments and yield the URL that its first line announces.

    Raises ChildError where it ends or stays silent instead.
    """
    # No temporary directory entry, so nothing is left behind by a parent that is killed.
    with tempfile.TemporaryFile() as errors:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", _MODULE, *arguments),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=errors,
            env=_environment(),
            start_new_session=True,  # the terminal's Ctrl-C is for the parent, which ends its children in order
        )
        try:
            yield await _announced_url(process, errors, arguments[0])
        finally:
            await _stop(process)


async def _announced_url(process: asyncio.subprocess.Process, errors: IO[bytes], name: str) -> str:
    assert process.stdout is not None  # noqa: S101 - a pipe was asked for
    try:
        async with asyncio.timeout(_START_S):
            async for line in process.stdout:
                if found := _URL.search(line.decode(errors="replace")):
                    return found.group()
    except TimeoutError:
        raise ChildError(f"{name} did not start within {_START_S:g} s: {_tail(errors)}") from None
    raise ChildError(f"{name} did not start: {_tail(errors)}")


async def _stop(process: asyncio.subprocess.Process) -> None:
    """Ask the process to end, then make it."""
    if process.returncode is None:
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        try:
            async with asyncio.timeout(_STOP_S):
                await process.wait()
        except TimeoutError:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()


def _environment() -> dict[str, str]:
    """Our environment without settings that were meant for another server."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("THUNDERAGENT_")}
    return {**inherited, "PYTHONUNBUFFERED": "1"}


def _tail(errors: IO[bytes]) -> str:
    size = errors.seek(0, os.SEEK_END)
    errors.seek(max(0, size - _TAIL_BYTES))
    return errors.read().decode(errors="replace").strip() or "it printed nothing"
