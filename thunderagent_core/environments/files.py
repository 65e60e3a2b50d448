"""Brings single files into an environment and out of it. Nothing but a shell, ``cat`` and ``mv`` is needed inside."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from thunderagent_core.environments.base import ProviderError, Stream
from thunderagent_core.environments.channel import SHELL
from thunderagent_core.environments.commands import EnvironmentDiedError, ExecError
from thunderagent_core.environments.liveness import has_ended

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from thunderagent_core.environments.base import Place, Process, Provider

MAX_FILE_BYTES: Final = 1 << 30
TRANSFER_S: Final = 600.0
"""Longest transfer of one file, in seconds."""

_CHUNK_BYTES: Final = 65536
_CLEAN_UP_S: Final = 10.0
_MESSAGE_BYTES: Final = 2000
_VERDICT_S: Final = 2.0
_FAILED: Final = 74

_STORE: Final = """
[ -d "$1" ] && exit 71
mkdir -p -- "${1%/*}" || exit 74
cat >"${1%/*}/$2" || exit 74
"""
_COMMIT: Final = """
[ "$(wc -c <"${1%/*}/$2")" -eq "$4" ] || exit 74
[ -d "$1" ] && exit 71
chmod -- "$3" "${1%/*}/$2" && mv -f -- "${1%/*}/$2" "$1" || exit 74
"""
_DISCARD: Final = 'rm -f -- "${1%/*}/$2"'
_FETCH: Final = """
[ -e "$1" ] || exit 70
[ -d "$1" ] && exit 71
[ -f "$1" ] || exit 72
[ -r "$1" ] || exit 73
[ "$(wc -c <"$1")" -le "$2" ] || exit 75
exec cat -- "$1"
"""

_CODES: Final = {
    70: ("file_not_found", "there is no such file"),
    71: ("is_a_directory", "it is a directory"),
    72: ("not_a_file", "it is no regular file"),
    73: ("permission_denied", "it may not be read"),
    75: ("file_too_large", "it is larger than allowed"),
}


class FileError(ExecError):
    """A file could not be brought in or out.

    Its codes: ``bad_path``, ``file_not_found``, ``is_a_directory``, ``not_a_file``, ``permission_denied``,
    ``file_too_large``, ``transfer_failed`` (with what the environment said), ``transfer_timeout``.
    """


@dataclass(frozen=True, slots=True)
class _Ending:
    status: int
    message: str


async def upload(
    provider: Provider,
    place: Place,
    path: str,
    data: AsyncIterator[bytes] | bytes,
    mode: int = 0o644,
    *,
    max_bytes: int = MAX_FILE_BYTES,
    timeout_s: float = TRANSFER_S,
) -> int:
    """Write a file, whole or not at all, and return its size. Directories above it are made; an old file is replaced.

    Args:
        provider: where the environment lives.
        place: which one.
        path: absolute path inside.
        data: its content.
        mode: its permissions.
        max_bytes: largest size.
        timeout_s: longest time for all of it, in seconds.

    Raises:
        FileError: see its codes.
        EnvironmentDiedError: the environment ended meanwhile.
        ProviderError: the provider could not start a process.
    """
    inside, temporary = _inside(path), f".thunder-{secrets.token_hex(8)}"
    try:
        async with asyncio.timeout(timeout_s):
            size = await _store(provider, place, inside, temporary, _pieces(data, max_bytes, path))
            arguments = (inside, temporary, f"{mode & 0o7777:o}", str(size))
            ending = await _run(provider, place, _COMMIT, *arguments)
            await _check(provider, place, path, ending)
    except BaseException as error:
        await _discard(provider, place, inside, temporary)
        if isinstance(error, TimeoutError):
            raise _timeout(path, timeout_s) from None
        raise
    return size


async def download(
    provider: Provider,
    place: Place,
    path: str,
    *,
    max_bytes: int = MAX_FILE_BYTES,
    timeout_s: float = TRANSFER_S,
) -> AsyncIterator[bytes]:
    """Yield the content of a file. What is wrong with the file shows before the first piece.

    Args:
        provider: where the environment lives.
        place: which one.
        path: absolute path inside.
        max_bytes: largest size.
        timeout_s: longest wait for the next piece, in seconds.

    Raises:
        FileError: see its codes.
        EnvironmentDiedError: the environment ended meanwhile.
        ProviderError: the provider could not start a process.
    """
    process = await _spawn(provider, place, _FETCH, _inside(path), str(max_bytes))
    message = bytearray()
    size = 0
    try:
        await process.close_input()
        while (piece := await _next(process, path, timeout_s)) is not None:
            stream, data = piece
            if stream is Stream.STDERR:
                message += data[: _MESSAGE_BYTES - len(message)]
                continue
            size += len(data)
            if size > max_bytes:  # it grew meanwhile
                raise FileError(f"{path}: it is larger than {max_bytes} bytes", code="file_too_large")
            yield data
        await _check(provider, place, path, _Ending(await process.wait(), message.decode(errors="replace").strip()))
    finally:
        await process.aclose()


async def _store(provider: Provider, place: Place, inside: str, temporary: str, pieces: AsyncIterator[bytes]) -> int:
    """Write the content beside the place where it is to be, and return its size."""
    process = await _spawn(provider, place, _STORE, inside, temporary)
    try:
        size = 0
        with contextlib.suppress(ProviderError):  # its end will say why it takes no more
            async for piece in pieces:
                size += len(piece)
                await process.write(piece)
            await process.close_input()
        await _check(provider, place, inside, await _ending(process))
    except BaseException:
        await _let_go(process)  # it must not make the file anew after it has been removed
        raise
    else:
        return size
    finally:
        await process.aclose()


async def _pieces(data: AsyncIterator[bytes] | bytes, max_bytes: int, path: str) -> AsyncIterator[bytes]:
    """Yield the content in pieces. Raises FileError where there is too much of it."""
    left = max_bytes
    async for piece in _cut(data) if isinstance(data, bytes) else data:
        left -= len(piece)
        if left < 0:
            raise FileError(f"{path}: it is larger than {max_bytes} bytes", code="file_too_large")
        yield piece


async def _cut(data: bytes) -> AsyncIterator[bytes]:
    for at in range(0, len(data), _CHUNK_BYTES):
        yield data[at : at + _CHUNK_BYTES]


async def _discard(provider: Provider, place: Place, inside: str, temporary: str) -> None:
    with contextlib.suppress(ProviderError, ExecError, TimeoutError):
        async with asyncio.timeout(_CLEAN_UP_S):
            await _run(provider, place, _DISCARD, inside, temporary)


async def _let_go(process: Process) -> None:
    """Let a process see the end of its input, and wait a while for its own."""
    with contextlib.suppress(ProviderError, TimeoutError):
        async with asyncio.timeout(_CLEAN_UP_S):
            await process.close_input()
            await _ending(process)


async def _run(provider: Provider, place: Place, script: str, *arguments: str) -> _Ending:
    process = await _spawn(provider, place, script, *arguments)
    try:
        await process.close_input()
        return await _ending(process)
    finally:
        await process.aclose()


async def _spawn(provider: Provider, place: Place, script: str, *arguments: str) -> Process:
    try:
        return await provider.spawn(place, (SHELL, "-c", script, SHELL, *arguments), workdir="/")
    except ProviderError:
        if await has_ended(provider, place):
            raise EnvironmentDiedError("the environment is not running") from None
        raise


async def _ending(process: Process) -> _Ending:
    message = bytearray()
    while (piece := await process.read()) is not None:
        message += piece[1][: _MESSAGE_BYTES - len(message)]
    return _Ending(await process.wait(), message.decode(errors="replace").strip())


async def _next(process: Process, path: str, timeout_s: float) -> tuple[Stream, bytes] | None:
    try:
        async with asyncio.timeout(timeout_s):
            return await process.read()
    except TimeoutError:
        raise _timeout(path, timeout_s) from None


async def _check(provider: Provider, place: Place, path: str, ending: _Ending) -> None:
    if ending.status == 0:
        return
    if ending.status in _CODES:
        code, text = _CODES[ending.status]
        raise FileError(f"{path}: {text}", code=code)
    if ending.status != _FAILED and await has_ended(provider, place, within_s=_VERDICT_S):
        raise EnvironmentDiedError("the environment ended meanwhile")
    raise FileError(f"{path}: {ending.message or f'exit status {ending.status}'}", code="transfer_failed")


def _inside(path: str) -> str:
    """Return a path relative to the root of the environment, where the process stands."""
    if not path.startswith("/") or path.endswith("/") or "\0" in path:
        raise FileError(f"{path!r} is no absolute path of a file", code="bad_path")
    return "./" + path.lstrip("/")


def _timeout(path: str, timeout_s: float) -> FileError:
    return FileError(f"{path}: not done within {timeout_s:g} s", code="transfer_timeout")
