"""What a caller says of a command, what it gets back, and what can go wrong."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

MAX_COMMAND_BYTES: Final = 1 << 20
"""Longest command, with its arguments."""

MAX_ENV_BYTES: Final = 128 << 10
"""All environment variables of one command, names and values."""

DEFAULT_OUTPUT_BYTES: Final = 1 << 20

_PIECE_BYTES: Final = 96 << 10
"""Linux takes no single argument of 128 KiB or more."""

_VARIABLE: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_JOINED: Final = b'IFS=; set -- "$*"; unset IFS; eval "shift\n$1"'


class ExecError(Exception):
    """A command gave no result.

    Args:
        message: a sentence for a person.
        code: a word for a program: ``bad_command``, ``workdir_not_found``, ``busy``, ``no_shell``, ``channel_lost``,
            ``kill_failed``, ``closed``, ``environment_died``; for files also those that ``files.py`` names.
    """

    def __init__(self, message: str, *, code: str) -> None:
        super().__init__(message)
        self.code = code


class EnvironmentDiedError(ExecError):
    """The environment ended before the command did, or had ended before it could begin."""

    def __init__(self, message: str) -> None:
        super().__init__(message, code="environment_died")


@dataclass(frozen=True, slots=True, kw_only=True)
class ExecRequest:
    """One command.

    Args:
        command: text for ``/bin/sh``, or a program and its arguments.
        workdir: absolute, or relative to that of the environment; None: that of the environment.
        env: variables on top of those of the environment.
        timeout_s: longest running time in seconds; None: the longest that the executor allows.
        output_limit_bytes: bytes kept of standard output, and as many of standard error: one half from the beginning,
            the other from the end.
    """

    command: str | tuple[str, ...]
    workdir: str | None = None
    env: Mapping[str, str] = field(default_factory=dict)
    timeout_s: float | None = None
    output_limit_bytes: int = DEFAULT_OUTPUT_BYTES


@dataclass(frozen=True, slots=True, kw_only=True)
class ExecResult:
    """How a command ended.

    Args:
        exit_code: its exit status, 128 + N where signal N ended it.
        stdout: what it wrote, less what was dropped; empty where it has been streamed.
        stderr: the same of its standard error.
        dropped_stdout: bytes given up between the two halves that were kept.
        dropped_stderr: the same of its standard error.
        timed_out: it was ended because its time was up.
        duration_s: from handing it to a shell until its end, in seconds.
    """

    exit_code: int
    stdout: bytes = b""
    stderr: bytes = b""
    dropped_stdout: int = 0
    dropped_stderr: int = 0
    timed_out: bool = False
    duration_s: float = 0.0


def quote(text: str) -> bytes:
    """Return text as one word of shell.

    Raises:
        ExecError: it holds a zero byte, which no argument can.
    """
    if "\0" in text:
        raise ExecError("a command, path or variable may not hold a zero byte", code="bad_command")
    return b"'" + text.encode("utf-8", "surrogateescape").replace(b"'", b"'\\''") + b"'"


def command_words(command: str | tuple[str, ...]) -> bytes:
    """Return the words of shell that start a command as a program of its own.

    Raises:
        ExecError: it is empty, too long, or holds a zero byte.
    """
    if not command or (isinstance(command, tuple) and not command[0]):
        raise ExecError("the command is empty", code="bad_command")
    texts = (command,) if isinstance(command, str) else command
    size = sum(len(text.encode("utf-8", "surrogateescape")) + 1 for text in texts)
    if size > MAX_COMMAND_BYTES:
        raise ExecError(f"the command has {size} bytes; {MAX_COMMAND_BYTES} are allowed", code="bad_command")
    if isinstance(command, tuple):
        return b"/bin/sh -c 'exec \"$@\"' sh " + b" ".join(quote(word) for word in command)
    if size < _PIECE_BYTES:
        return b"/bin/sh -c " + quote(command)
    pieces = _pieces(command)
    return b"/bin/sh -c '" + _JOINED + b"' sh " + b" ".join(quote(piece) for piece in pieces)


def _pieces(text: str) -> list[str]:
    step = _PIECE_BYTES // 4  # characters, of four bytes at most
    return [text[at : at + step] for at in range(0, len(text), step)]


def export_words(env: Mapping[str, str]) -> bytes:
    """Return the shell that exports variables, empty where there are none.

    Raises:
        ExecError: a name is none, a value holds a zero byte, or they are too long together.
    """
    size = sum(len(name) + len(value.encode("utf-8", "surrogateescape")) for name, value in env.items())
    if size > MAX_ENV_BYTES:
        raise ExecError(f"the variables have {size} bytes; {MAX_ENV_BYTES} are allowed", code="bad_command")
    for name in env:
        if not _VARIABLE.fullmatch(name):
            raise ExecError(f"{name!r} is no name of an environment variable", code="bad_command")
    words = [name.encode() + b"=" + quote(value) for name, value in env.items()]
    return b"export " + b" ".join(words) if words else b":"
