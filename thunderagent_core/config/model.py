"""``ServerConfig``: every setting of the server, with its default, its description and its range in one place."""

from __future__ import annotations

from dataclasses import Field, dataclass, field, fields
from typing import TYPE_CHECKING, Final, TypeVar, cast

from thunderagent_core.config.rules import (
    Choice,
    EngineUrl,
    NewFile,
    Number,
    Optional,
    Rule,
    Several,
    Switch,
    Whole,
    Word,
)
from thunderagent_core.scheduling.policies import POLICY_NAMES
from thunderagent_core.scheduling.settings import SchedulerSettings

if TYPE_CHECKING:
    from pathlib import Path

_T = TypeVar("_T")
_CORE: Final = SchedulerSettings()
_HIGHEST_PORT: Final = 65535
_LOG_LEVELS: Final = ("debug", "info", "warning", "error", "critical")
_SECONDS: Final = Number(0, above=True)
_SECONDS_OR_NONE: Final = Number(0)
_WATERMARK: Final = Number(0, 4, above=True)
_KEY: Final = Word("printable ASCII without spaces or commas")


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


def _setting(default: _T, rule: Rule, text: str, *, panel: str, flag: str = "", secret: bool = False) -> _T:
    """Declare one setting."""
    about = About(text, rule, flag, panel, secret)
    declared: _T = field(default=default, repr=not secret, metadata={"about": about})
    return declared


_SERVER: Final = "Server"
_ENGINES: Final = "Engines"
_SCHEDULING: Final = "Scheduling"
_POLICIES: Final = "Settings of single policies"


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerConfig:
    """Settings of ``thunderagent serve``, checked when they are put together.

    Raises:
        ConfigError: a value is not allowed.
    """

    host: str = _setting(
        "127.0.0.1", Word("a host name or address"), "Address to listen on; 0.0.0.0 for all.", panel=_SERVER
    )
    port: int = _setting(
        8300, Whole(0, _HIGHEST_PORT), "TCP port to listen on; 0 lets the system choose one.", panel=_SERVER
    )
    backends: tuple[str, ...] = _setting(
        (),
        Several(EngineUrl()),
        "Root URL of an engine; more can be added while running.",
        panel=_ENGINES,
        flag="--backend",
    )
    policy: str = _setting(
        "paper", Choice(POLICY_NAMES), f"How programs are scheduled: {', '.join(POLICY_NAMES)}.", panel=_SCHEDULING
    )
    tick_s: float = _setting(
        _CORE.tick_s,
        _SECONDS,
        "Seconds between backstop passes; every event is acted on at once anyway.",
        panel=_SCHEDULING,
    )
    high_watermark: float = _setting(
        _CORE.high_watermark,
        _WATERMARK,
        "Share of an engine's KV cache above which programs are paused.",
        panel=_SCHEDULING,
    )
    low_watermark: float = _setting(
        _CORE.low_watermark,
        _WATERMARK,
        "Share of an engine's KV cache below which programs are restored.",
        panel=_SCHEDULING,
    )
    decay_base: float = _setting(
        _CORE.decay_base,
        Number(1),
        "Factor x by which an acting program's weight decays; 1 turns decay off.",
        panel=_SCHEDULING,
    )
    decay_interval_s: float = _setting(
        _CORE.decay_interval_s,
        _SECONDS,
        "Seconds in which an acting program's weight falls by decay_base.",
        panel=_SCHEDULING,
    )
    growth_reserve_tokens: int = _setting(
        _CORE.growth_reserve_tokens,
        Whole(0),
        "Tokens kept free for the next turn of each active program.",
        panel=_SCHEDULING,
    )
    max_wait_s: float = _setting(
        _CORE.max_wait_s, _SECONDS, "Longest time in seconds that a program is held back.", panel=_SCHEDULING
    )
    idle_lease_s: float = _setting(
        _CORE.idle_lease_s,
        _SECONDS,
        "Seconds without a request or event after which a program is ended.",
        panel=_SCHEDULING,
    )
    interrupt_lease_s: float = _setting(
        _CORE.interrupt_lease_s,
        _SECONDS,
        "The same for a program that waits for a person, in seconds.",
        panel=_SCHEDULING,
    )
    home_window_s: float = _setting(
        _CORE.home_window_s,
        _SECONDS_OR_NONE,
        "Seconds after a pause in which a cache counts as warm where it was.",
        panel=_SCHEDULING,
    )
    discount_shared_prefix: bool = _setting(
        _CORE.discount_shared_prefix,
        Switch(),
        "Count a prefix that programs share once, not for each of them.",
        panel=_SCHEDULING,
    )
    cap_programs: int = _setting(
        _CORE.cap_programs, Whole(1), "Policy cap: programs active at once on each engine.", panel=_POLICIES
    )
    ttl_s: float = _setting(
        _CORE.ttl_s,
        _SECONDS_OR_NONE,
        "Policy ttl: seconds for which an acting program keeps its cache.",
        panel=_POLICIES,
    )
    capacity_tokens: int | None = _setting(
        None,
        Optional(Whole(1)),
        "KV cache of each engine in tokens, instead of what the engines report.",
        panel=_ENGINES,
    )
    backend_api_key: str | None = _setting(
        None,
        Optional(_KEY),
        "Key sent to the engines instead of the client's Authorization.",
        panel=_ENGINES,
        secret=True,
    )
    poll_interval_s: float = _setting(1.0, _SECONDS, "Seconds between two looks at an engine.", panel=_ENGINES)
    poll_timeout_s: float = _setting(2.0, _SECONDS, "Seconds that an engine may take to answer a look.", panel=_ENGINES)
    lost_after_polls: int = _setting(
        3, Whole(1), "Time-outs in a row after which an engine counts as lost.", panel=_ENGINES
    )
    startup_wait_s: float = _setting(
        0.0, _SECONDS_OR_NONE, "Seconds to wait at start for the first engine to answer.", panel=_ENGINES
    )
    max_body_bytes: int = _setting(
        32 * 1024 * 1024, Whole(1), "Longest request body in bytes; more is answered with 413.", panel=_SERVER
    )
    api_keys: tuple[str, ...] = _setting(
        (),
        Several(_KEY),
        "Key that clients must send as a bearer token; none: no check.",
        panel=_SERVER,
        flag="--api-key",
        secret=True,
    )
    shutdown_grace_s: float = _setting(
        30.0, _SECONDS_OR_NONE, "Seconds that requests in flight are given when the server stops.", panel=_SERVER
    )
    trace: Path | None = _setting(  # noqa: RUF009 - it declares a field, as its neighbours do
        None, Optional(NewFile()), "File to record all events and decisions in, for thunderagent replay.", panel=_SERVER
    )
    log_level: str = _setting(
        "info", Choice(_LOG_LEVELS), f"Least severity that is logged: {', '.join(_LOG_LEVELS)}.", panel=_SERVER
    )
    history_programs: int = _setting(
        1000, Whole(0), "Ended programs that are remembered, so that releasing them again is no error.", panel=_SERVER
    )

    def __post_init__(self) -> None:
        for name, about in settings().items():
            given = getattr(self, name)
            try:
                value = about.rule.checked(given)
            except ValueError:
                raise bad_value(name, given) from None
            object.__setattr__(self, name, value)
        if self.low_watermark > self.high_watermark:
            raise ConfigError(
                "low_watermark", f"{self.low_watermark:g}", f"at most high_watermark, which is {self.high_watermark:g}"
            )

    def scheduler_settings(self) -> SchedulerSettings:
        """Return what the scheduling core needs."""
        return SchedulerSettings(**{f.name: getattr(self, f.name) for f in fields(SchedulerSettings)})


def settings() -> dict[str, About]:
    """Return all settings by name, in the order of their declaration."""
    return {f.name: _about(f) for f in fields(ServerConfig)}


def bad_value(name: str, given: object, source: str | None = None) -> ConfigError:
    """Return the error for a value that the setting ``name`` does not take; secrets are not repeated."""
    about = settings()[name]
    return ConfigError(name, None if about.secret else repr(given), about.rule.allowed, source)


def _about(setting: Field[object]) -> About:
    about = cast("About", setting.metadata["about"])
    flag = about.flag or "--" + setting.name.replace("_", "-")
    return About(about.text, about.rule, flag, about.panel, about.secret)
