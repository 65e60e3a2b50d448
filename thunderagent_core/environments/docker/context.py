"""A build context: the directory's files without what ``.dockerignore`` names, as a tar archive."""

from __future__ import annotations

import os
import re
import tarfile
from pathlib import Path
from typing import IO, TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

_IGNORE_FILE: Final = ".dockerignore"
_TOKEN: Final = re.compile(r"\*\*/?|\*|\?|\[\^?[^\]]+\]|\\.|.", re.DOTALL)


class _Rule(NamedTuple):
    pattern: re.Pattern[str]
    keeps: bool


class IgnoreRules:
    """What a ``.dockerignore`` leaves out: of the rules that match a path or a directory above it, the last decides.

    Args:
        lines: its lines; comments and empty ones count for nothing.
    """

    def __init__(self, lines: Iterable[str]) -> None:
        self._rules = [_rule(line) for line in map(str.strip, lines) if line and not line.startswith("#")]

    def leave_out(self, path: str) -> bool:
        """Whether a path, relative to the context and with slashes, is left out."""
        parts = path.split("/")
        above = ["/".join(parts[:count]) for count in range(1, len(parts) + 1)]
        left_out = False
        for rule in self._rules:
            if any(rule.pattern.fullmatch(name) for name in above):
                left_out = not rule.keeps
        return left_out


def write_context(directory: Path, archive: IO[bytes], dockerfile: str) -> None:
    """Write the archive. The Dockerfile itself is always in it. Raises OSError."""
    rules = _rules_of(directory)
    with tarfile.open(fileobj=archive, mode="w") as tar:
        for path in _walk(directory):
            name = path.relative_to(directory).as_posix()
            if name == dockerfile or not rules.leave_out(name):
                tar.add(path, name, recursive=False, filter=_anonymous)


def _rules_of(directory: Path) -> IgnoreRules:
    try:
        text = (directory / _IGNORE_FILE).read_text(encoding="utf-8")
    except FileNotFoundError:
        text = ""
    return IgnoreRules(text.splitlines())


def _walk(directory: Path) -> Iterator[Path]:
    def stop(error: OSError) -> None:
        raise error

    for parent, folders, files in os.walk(directory, onerror=stop):
        folders.sort()
        for name in sorted([*folders, *files]):
            yield Path(parent, name)


def _anonymous(member: tarfile.TarInfo) -> tarfile.TarInfo | None:
    """Make the archive depend on the files alone, so that the daemon's cache is used; sockets and pipes stay out."""
    if not (member.isreg() or member.isdir() or member.issym() or member.islnk()):
        return None
    member.uid = member.gid = 0
    member.uname = member.gname = ""
    return member


def _rule(line: str) -> _Rule:
    keeps = line.startswith("!")
    text = line.removeprefix("!").strip().strip("/").removeprefix("./")
    return _Rule(re.compile("".join(map(_translated, _TOKEN.findall(text)))), keeps)


def _translated(token: str) -> str:
    """Return the regular expression for one piece of a pattern."""
    fixed = {"**/": "(?:.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}
    if token in fixed:
        return fixed[token]
    if token.startswith("[") and len(token) > 1:
        return token
    return re.escape(token.removeprefix("\\") if len(token) > 1 else token)
