"""``ServerConfig``: every setting of the server."""

from __future__ import annotations

from dataclasses import Field, dataclass, fields
from typing import TYPE_CHECKING, Final, cast

from thunderagent_core.config.declaring import (
    ENGINES,
    ENVIRONMENTS,
    KEY,
    POLICIES,
    SCHEDULING,
    SECONDS,
    SECONDS_OR_NONE,
    SERVER,
    About,
    ConfigError,
    setting,
)
from thunderagent_core.config.environments import EnvironmentsConfig
from thunderagent_core.config.rules import Choice, EngineUrl, NewFile, Number, Optional, Several, Switch, Whole, Word
from thunderagent_core.scheduling.policies import POLICY_NAMES
from thunderagent_core.scheduling.settings import SchedulerSettings

if TYPE_CHECKING:
    from pathlib import Path

_CORE: Final = SchedulerSettings()
_HIGHEST_PORT: Final = 65535
_LOG_LEVELS: Final = ("debug", "info", "warning", "error", "critical")
_WATERMARK: Final = Number(0, 4, above=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerConfig(EnvironmentsConfig):
    """Settings of ``thunderagent serve``, checked when they are put together.

    Raises:
        ConfigError: a value is not allowed.
    """

    host: str = setting(
        "127.0.0.1", Word("a host name or address"), "Address to listen on; 0.0.0.0 for all.", panel=SERVER
    )
    port: int = setting(
        8300, Whole(0, _HIGHEST_PORT), "TCP port to listen on; 0 lets the system choose one.", panel=SERVER
    )
    backends: tuple[str, ...] = setting(
        (),
        Several(EngineUrl()),
        "Root URL of an engine; more can be added while running.",
        panel=ENGINES,
        flag="--backend",
    )
    policy: str = setting(
        "paper", Choice(POLICY_NAMES), f"How programs are scheduled: {', '.join(POLICY_NAMES)}.", panel=SCHEDULING
    )
    tick_s: float = setting(
        _CORE.tick_s,
        SECONDS,
        "Seconds between backstop passes; every event is acted on at once anyway.",
        panel=SCHEDULING,
    )
    high_watermark: float = setting(
        _CORE.high_watermark,
        _WATERMARK,
        "Share of an engine's KV cache above which programs are paused.",
        panel=SCHEDULING,
    )
    low_watermark: float = setting(
        _CORE.low_watermark,
        _WATERMARK,
        "Share of an engine's KV cache below which programs are restored; at most high_watermark counts.",
        panel=SCHEDULING,
    )
    decay_base: float = setting(
        _CORE.decay_base,
        Number(1),
        "Factor x by which an acting program's weight decays; 1 turns decay off.",
        panel=SCHEDULING,
    )
    decay_interval_s: float = setting(
        _CORE.decay_interval_s,
        SECONDS,
        "Seconds in which an acting program's weight falls by decay_base.",
        panel=SCHEDULING,
    )
    growth_reserve_tokens: int = setting(
        _CORE.growth_reserve_tokens,
        Whole(0),
        "Tokens kept free for the next turn of each active program.",
        panel=SCHEDULING,
    )
    max_wait_s: float = setting(
        _CORE.max_wait_s, SECONDS, "Longest time in seconds that a program is held back.", panel=SCHEDULING
    )
    idle_lease_s: float = setting(
        _CORE.idle_lease_s,
        SECONDS,
        "Seconds without a request or event after which a program is ended.",
        panel=SCHEDULING,
    )
    interrupt_lease_s: float = setting(
        _CORE.interrupt_lease_s,
        SECONDS,
        "The same for a program that waits for a person, in seconds.",
        panel=SCHEDULING,
    )
    home_window_s: float = setting(
        _CORE.home_window_s,
        SECONDS_OR_NONE,
        "Seconds after a pause in which a cache counts as warm where it was.",
        panel=SCHEDULING,
    )
    discount_shared_prefix: bool = setting(
        _CORE.discount_shared_prefix,
        Switch(),
        "Count a prefix that programs share once, not for each of them.",
        panel=SCHEDULING,
    )
    prepare_ahead: int = setting(
        _CORE.prepare_ahead,
        Whole(0),
        "Waiting programs whose tool environments are made ahead, at most.",
        panel=SCHEDULING,
    )
    cap_programs: int = setting(
        _CORE.cap_programs, Whole(1), "Policy cap: programs active at once on each engine.", panel=POLICIES
    )
    ttl_s: float = setting(
        _CORE.ttl_s,
        SECONDS_OR_NONE,
        "Policy ttl: seconds for which an acting program keeps its cache.",
        panel=POLICIES,
    )
    capacity_tokens: int | None = setting(
        None,
        Optional(Whole(1)),
        "KV cache of each engine in tokens, instead of what the engines report.",
        panel=ENGINES,
    )
    backend_api_key: str | None = setting(
        None,
        Optional(KEY),
        "Key sent to the engines instead of the client's Authorization.",
        panel=ENGINES,
        secret=True,
    )
    poll_interval_s: float = setting(1.0, SECONDS, "Seconds between two looks at an engine.", panel=ENGINES)
    poll_timeout_s: float = setting(2.0, SECONDS, "Seconds that an engine may take to answer a look.", panel=ENGINES)
    lost_after_polls: int = setting(
        3, Whole(1), "Time-outs in a row after which an engine counts as lost.", panel=ENGINES
    )
    response_timeout_s: float = setting(
        3600.0,
        SECONDS,
        "Longest silence of an engine in seconds, before an answer or within it; then the request ends.",
        panel=ENGINES,
    )
    startup_wait_s: float = setting(
        0.0, SECONDS_OR_NONE, "Seconds to wait at start for the first engine to answer.", panel=ENGINES
    )
    max_body_bytes: int = setting(
        32 * 1024 * 1024, Whole(1), "Longest request body in bytes; more is answered with 413.", panel=SERVER
    )
    api_keys: tuple[str, ...] = setting(
        (),
        Several(KEY),
        "Key that clients must send as a bearer token; none: no check.",
        panel=SERVER,
        flag="--api-key",
        secret=True,
    )
    shutdown_grace_s: float = setting(
        30.0, SECONDS_OR_NONE, "Seconds that requests in flight are given when the server stops.", panel=SERVER
    )
    trace: Path | None = setting(  # noqa: RUF009 - it declares a field, as its neighbours do
        None, Optional(NewFile()), "File to record all events and decisions in, for thunderagent replay.", panel=SERVER
    )
    log_level: str = setting(
        "info", Choice(_LOG_LEVELS), f"Least severity that is logged: {', '.join(_LOG_LEVELS)}.", panel=SERVER
    )
    history_programs: int = setting(
        1000, Whole(0), "Ended programs that are remembered, so that releasing them again is no error.", panel=SERVER
    )

    def __post_init__(self) -> None:
        for name, about in settings().items():
            given = getattr(self, name)
            try:
                value = about.rule.checked(given)
            except ValueError:
                raise bad_value(name, given) from None
            object.__setattr__(self, name, value)

    def scheduler_settings(self) -> SchedulerSettings:
        """Return what the scheduling core needs."""
        return SchedulerSettings(**{f.name: getattr(self, f.name) for f in fields(SchedulerSettings)})


def settings() -> dict[str, About]:
    """Return all settings by name, in the order of their declaration; those of environments come last."""
    declared = {f.name: _about(f) for f in fields(ServerConfig)}
    return dict(sorted(declared.items(), key=lambda item: item[1].panel == ENVIRONMENTS))


def bad_value(name: str, given: object, source: str | None = None) -> ConfigError:
    """Return the error for a value that the setting ``name`` does not take; secrets are not repeated."""
    about = settings()[name]
    return ConfigError(name, None if about.secret else repr(given), about.rule.allowed, source)


def _about(setting: Field[object]) -> About:
    about = cast("About", setting.metadata["about"])
    flag = about.flag or "--" + setting.name.replace("_", "-")
    return About(about.text, about.rule, flag, about.panel, about.secret)
