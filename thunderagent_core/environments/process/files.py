"""Writes small files so that after a crash there is the old content or the new, and runs tools on big trees."""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
from typing import TYPE_CHECKING, Final

from thunderagent_core.environments.base import ProviderError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

_REPORTED_BYTES: Final = 500
_LONGEST_PATH: Final = 4_000


def write_whole(path: Path, content: bytes) -> None:
    """Replace a file durably and all at once."""
    draft = path.with_name(f"{path.name}.{secrets.token_hex(4)}.draft")
    try:
        with draft.open("xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
    except BaseException:
        draft.unlink(missing_ok=True)
        raise
    sync_directory(path.parent)


def sync_directory(path: Path) -> None:
    """Make durable which names a directory holds."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class TreeTools:
    """Runs ``tar``, ``du``, ``find`` and ``rm`` on environments, whatever modes and depths their files have.

    Args:
        prefix: command that gives these tools the right to read what its owner may not, and ends them with the server.
    """

    def __init__(self, prefix: Sequence[str]) -> None:
        self._prefix = tuple(prefix)

    async def pack(self, directory: Path, archive: Path) -> None:
        """Write all below a directory to an archive, with deletions, holes, links and extended attributes.

        Raises:
            ProviderError: ``snapshot_impossible``: a path is too long to be unpacked again.
        """
        too_long = f".{{{len(str(directory)) + _LONGEST_PATH}}}.*"
        if await self._run("find", str(directory), "-regextype", "egrep", "-regex", too_long, "-print", "-quit"):
            text = f"a path is longer than {_LONGEST_PATH} bytes"
            raise ProviderError(text, code="snapshot_impossible", permanent=True)
        await self._run("tar", "--create", "--file", str(archive), *_TAR, "--directory", str(directory), ".")

    async def unpack(self, archive: Path, directory: Path) -> None:
        """Put what is in an archive into an empty directory."""
        await self._run("tar", "--extract", "--file", str(archive), *_TAR, "-p", "--directory", str(directory))

    async def allocated_bytes(self, *paths: Path) -> int:
        """Return the blocks that trees have allocated, in bytes; files with several names count once."""
        output = await self._run("du", "--summarize", "--block-size=1", "--total", "--", *map(str, paths))
        return int(output.splitlines()[-1].split()[0])

    async def remove(self, *paths: Path) -> None:
        """Remove trees. Those that are not there are no error."""
        await self._run("rm", "-rf", "--one-file-system", "--", *map(str, paths))

    async def sync(self, path: Path) -> None:
        """Make durable what has been written to the file system of a path."""
        await self._run("sync", "--file-system", str(path))

    async def _run(self, *command: str) -> bytes:
        process = await asyncio.create_subprocess_exec(
            *self._prefix,
            *command,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env={"PATH": os.defpath, "LC_ALL": "C"},
            start_new_session=True,
        )
        try:
            output, complaint = await process.communicate()
        except BaseException:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await asyncio.shield(process.wait())
            raise
        if process.returncode != 0:
            text = complaint.decode(errors="replace").strip()[:_REPORTED_BYTES]
            raise ProviderError(f"{command[0]} failed: {text}", code="files_failed")
        return output


_TAR: Final = ("--xattrs", "--xattrs-include=*", "--numeric-owner", "--sparse", "--one-file-system")
