"""How one setting is declared: its default, description and range in one place; and what is said when it is wrong."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, TypeVar

from thunderagent_core.config.rules import Number, Word

if TYPE_CHECKING:
    from thunderagent_core.config.rules import Rule

_T = TypeVar("_T")

SECONDS: Final = Number(0, above=True)
SECONDS_OR_NONE: Final = Number(0)
KEY: Final = Word("printable ASCII without spaces or commas")

SERVER: Final = "Server"
ENGINES: Final = "Engines"
SCHEDULING: Final = "Scheduling"
POLICIES: Final = "Settings of single policies"
ENVIRONMENTS: Final = "Tool environments"


class ConfigError(Exception):
    """A setting cannot be used; the text is one line that names it, what was given and what is allowed.

    Args:
        key: name of the setting.
        given: what was given, as it may be shown; None where showing it would say nothing or give a secret away.
        allowed: what is allowed.
        source: where the value came from.
    """

    def __init__(self, key: str, given: str | None, allowed: str, source: str | None = None) -> None:
        self.key, self.given, self.allowed, self.source = key, given, allowed, source
        where = f"{key} (from {source})" if source else key
        what = "" if given is None else f"got {given}, "
        super().__init__(" ".join(f"{where}: {what}allowed: {allowed}".split()))


class UnknownSettingError(ConfigError):
    """A name that is no setting; the text says where it stands and which known one is nearest."""

    def __init__(self, key: str, source: str, nearest: str) -> None:
        super().__init__(key, None, nearest, source)
        self.args = (f"unknown setting {key} (from {source}); the nearest known one is {nearest}",)


@dataclass(frozen=True, slots=True)
class About:
    """What is known of one setting besides its type and default.

    Args:
        text: one line for ``--help`` and docs/configuration.md, with the unit.
        rule: what it may be.
        flag: its command line option.
        panel: under which heading ``--help`` lists it.
        secret: never shown.
    """

    text: str
    rule: Rule
    flag: str
    panel: str
    secret: bool


def setting(default: _T, rule: Rule, text: str, *, panel: str, flag: str = "", secret: bool = False) -> _T:
    """Declare one setting."""
    about = About(text, rule, flag, panel, secret)
    declared: _T = field(default=default, repr=not secret, metadata={"about": about})
    return declared
