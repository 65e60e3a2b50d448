"""Settings that are places: directories, Docker daemons, ranges of ports."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

_HIGHEST_PORT = 65535
_RANGE = re.compile(r"(\d{1,5})-(\d{1,5})")


@dataclass(frozen=True, slots=True)
class Folder:
    """An absolute directory, or one relative to where the server is started; ``exists``: it must be there already."""

    exists: bool = False
    metavar: str = "DIR"

    @property
    def allowed(self) -> str:
        """What is allowed."""
        return "a directory that exists" if self.exists else "a directory, or the name of one that can be made"

    def from_text(self, text: str) -> Path:
        """Read a path; ``~`` is the home directory."""
        return self.checked(text)

    def checked(self, value: Any) -> Path:
        """Refuse what is a file, and where it must exist what is not there."""
        if not isinstance(value, str | Path) or not str(value) or "\0" in str(value):
            raise ValueError(value)
        path = Path(value).expanduser().absolute()
        if (path.exists() or self.exists) and not path.is_dir():
            raise ValueError(value)
        return path


@dataclass(frozen=True, slots=True)
class ReadableFile:
    """A file that exists."""

    metavar: str = "FILE"
    allowed: str = "a file that exists"

    def from_text(self, text: str) -> Path:
        """Read a path; ``~`` is the home directory."""
        return self.checked(text)

    def checked(self, value: Any) -> Path:
        """Refuse what is no file."""
        if not isinstance(value, str | Path) or not str(value) or "\0" in str(value):
            raise ValueError(value)
        path = Path(value).expanduser()
        if not path.is_file():
            raise ValueError(value)
        return path


@dataclass(frozen=True, slots=True)
class DockerHost:
    """Where a Docker daemon listens."""

    metavar: str = "URL"
    allowed: str = "unix:///path/of/socket or tcp://host:port"

    def from_text(self, text: str) -> str:
        """Read a URL."""
        return self.checked(text)

    def checked(self, value: Any) -> str:
        """Refuse what no daemon listens at."""
        if not isinstance(value, str) or not value.isascii():
            raise ValueError(value)
        parts = urlsplit(value)
        unix = parts.scheme == "unix" and not parts.netloc and len(parts.path) > 1
        tcp = parts.scheme == "tcp" and parts.hostname and parts.port and not parts.path.strip("/")
        if not unix and not tcp:
            raise ValueError(value)
        return value.rstrip("/")


@dataclass(frozen=True, slots=True)
class PortRange:
    """Two TCP ports, the first and the last of a range."""

    metavar: str = "FIRST-LAST"
    allowed: str = f"two ports from 1 to {_HIGHEST_PORT} such as 20000-20999"

    def from_text(self, text: str) -> str:
        """Read a range."""
        return self.checked(text)

    def checked(self, value: Any) -> str:
        """Refuse what is no range, and one that ends before it begins."""
        match = _RANGE.fullmatch(value) if isinstance(value, str) else None
        if match is None or not 0 < int(match[1]) <= int(match[2]) <= _HIGHEST_PORT:
            raise ValueError(value)
        return match[0]
