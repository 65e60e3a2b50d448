"""What a setting may be: one small class for each kind of value, with the words for people who get it wrong."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlsplit


class Rule(Protocol):
    """Knows one kind of value."""

    @property
    def metavar(self) -> str:
        """What ``--help`` shows in place of the value."""
        ...

    @property
    def allowed(self) -> str:
        """What is allowed, as the end of a sentence."""
        ...

    def from_text(self, text: str) -> Any:
        """Read a value from the environment or the command line. Raises ValueError."""
        ...

    def checked(self, value: Any) -> Any:
        """Return a value from a file or from code, in its final type. Raises ValueError."""
        ...


@dataclass(frozen=True, slots=True)
class Whole:
    """A whole number from ``low`` to ``high``."""

    low: int
    high: int | None = None
    metavar: str = "INTEGER"

    @property
    def allowed(self) -> str:
        """What is allowed."""
        bounds = f"{self.low} or more" if self.high is None else f"from {self.low} to {self.high}"
        return f"a whole number, {bounds}"

    def from_text(self, text: str) -> int:
        """Read decimal digits."""
        return self.checked(int(text))

    def checked(self, value: Any) -> int:
        """Refuse what is not an integer; True and False are none."""
        if type(value) is not int or value < self.low or (self.high is not None and value > self.high):
            raise ValueError(value)
        return value


@dataclass(frozen=True, slots=True)
class Number:
    """A finite number: at least ``low``, or above it where ``above`` is set, and at most ``high``."""

    low: float
    high: float | None = None
    above: bool = False
    metavar: str = "NUMBER"

    @property
    def allowed(self) -> str:
        """What is allowed."""
        lowest = f"above {self.low:g}" if self.above else f"{self.low:g} or more"
        return f"a number, {lowest}" + ("" if self.high is None else f" and at most {self.high:g}")

    def from_text(self, text: str) -> float:
        """Read a decimal number."""
        return self.checked(float(text))

    def checked(self, value: Any) -> float:
        """Refuse what is not a finite number within the bounds."""
        if type(value) not in {int, float} or not math.isfinite(value):
            raise ValueError(value)
        if value < self.low or (self.above and value == self.low) or (self.high is not None and value > self.high):
            raise ValueError(value)
        return float(value)


@dataclass(frozen=True, slots=True)
class Switch:
    """True or false."""

    metavar: str = "BOOLEAN"
    allowed: str = "true or false"

    def from_text(self, text: str) -> bool:
        """Read the usual words for yes and no, whatever their case."""
        words = {
            "true": True,
            "yes": True,
            "on": True,
            "1": True,
            "false": False,
            "no": False,
            "off": False,
            "0": False,
        }
        if text.lower() not in words:
            raise ValueError(text)
        return words[text.lower()]

    def checked(self, value: Any) -> bool:
        """Refuse everything but True and False."""
        if not isinstance(value, bool):
            raise ValueError(value)  # noqa: TRY004 - one exception for all that is not allowed
        return value


@dataclass(frozen=True, slots=True)
class Choice:
    """One of a few words."""

    names: tuple[str, ...]
    metavar: str = "NAME"

    @property
    def allowed(self) -> str:
        """What is allowed."""
        return f"one of {', '.join(self.names)}"

    def from_text(self, text: str) -> str:
        """Take the word as it is."""
        return self.checked(text)

    def checked(self, value: Any) -> str:
        """Refuse every other word."""
        if value not in self.names:
            raise ValueError(value)
        return str(value)


@dataclass(frozen=True, slots=True)
class Word:
    """Printable text without spaces or commas, such as a host name or a key that travels in a header."""

    allowed: str
    metavar: str = "TEXT"

    def from_text(self, text: str) -> str:
        """Take the text as it is."""
        return self.checked(text)

    def checked(self, value: Any) -> str:
        """Refuse text that is empty, not ASCII, or not printable."""
        if not isinstance(value, str) or not value.isascii() or not value.isprintable():
            raise ValueError(value)
        if not value or " " in value or "," in value:
            raise ValueError(value)
        return value


@dataclass(frozen=True, slots=True)
class EngineUrl:
    """The root of an engine's HTTP server; a slash at its end makes no difference."""

    metavar: str = "URL"
    allowed: str = "an http:// or https:// URL without /v1, query, fragment or user, such as http://127.0.0.1:8000"

    def from_text(self, text: str) -> str:
        """Read a URL."""
        return self.checked(text)

    def checked(self, value: Any) -> str:
        """Refuse what an engine cannot be reached at, and the /v1 that is added to every request anyway."""
        if not isinstance(value, str) or not value.isascii():
            raise ValueError(value)
        parts = urlsplit(value)
        plain = not parts.query and not parts.fragment and parts.username is None and parts.port != 0
        path = parts.path.rstrip("/")
        if parts.scheme not in {"http", "https"} or not parts.hostname or not plain or path.endswith("/v1"):
            raise ValueError(value)
        return value.rstrip("/")


@dataclass(frozen=True, slots=True)
class NewFile:
    """A file to be written, in a directory that exists."""

    metavar: str = "FILE"
    allowed: str = "a file name in a directory that exists"

    def from_text(self, text: str) -> Path:
        """Read a path; ``~`` is the home directory."""
        return self.checked(Path(text).expanduser())

    def checked(self, value: Any) -> Path:
        """Refuse a directory and a file in no directory."""
        if not isinstance(value, str | Path) or not str(value) or "\0" in str(value):
            raise ValueError(value)
        path = Path(value)
        if path.is_dir() or not path.parent.is_dir():
            raise ValueError(value)
        return path


@dataclass(frozen=True, slots=True)
class Optional:
    """A value or nothing; nothing is written as empty text, or null in YAML."""

    inner: Rule

    @property
    def metavar(self) -> str:
        """What ``--help`` shows."""
        return self.inner.metavar

    @property
    def allowed(self) -> str:
        """What is allowed."""
        return f"{self.inner.allowed}, or empty for none"

    def from_text(self, text: str) -> Any:
        """Read a value; empty text is None."""
        return self.inner.from_text(text) if text else None

    def checked(self, value: Any) -> Any:
        """Let None pass."""
        return None if value is None else self.inner.checked(value)


@dataclass(frozen=True, slots=True)
class Several:
    """A list without repetition; commas separate its items in the environment."""

    inner: Rule

    @property
    def metavar(self) -> str:
        """What ``--help`` shows for one item."""
        return self.inner.metavar

    @property
    def allowed(self) -> str:
        """What is allowed."""
        return f"a list without repetition, each item {self.inner.allowed}"

    def from_text(self, text: str) -> tuple[Any, ...]:
        """Read items between commas; spaces around them do not count, empty text is the empty list."""
        items = text.split(",") if text.strip() else []
        return self._unique([self.inner.from_text(item.strip()) for item in items])

    def checked(self, value: Any) -> tuple[Any, ...]:
        """Refuse what is not a list or tuple of allowed items."""
        if not isinstance(value, list | tuple):
            raise ValueError(value)  # noqa: TRY004 - one exception for all that is not allowed
        return self._unique([self.inner.checked(item) for item in value])

    def _unique(self, items: list[Any]) -> tuple[Any, ...]:
        if len(set(items)) != len(items):
            raise ValueError(items)
        return tuple(items)
