"""The arms by name: what stands between the agents and the engine, and with which settings."""

from __future__ import annotations

import difflib
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from thunderagent_core.config import ConfigError, load_config
from thunderagent_core.config.model import settings
from thunderagent_core.scheduling.policies import POLICY_NAMES

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

DIRECT: Final = "direct"
PASSTHROUGH: Final = "passthrough"
PAPER: Final = "paper"
CAP: Final = "cap"
ROUTER: Final = "vllm-router"

QUICK_ROUTER: Final = f"{ROUTER}:stats_window_size=24"
"""Its statistics count after one request of each program; by default it needs 100, half of a run."""

KINDS: Final = (DIRECT, *POLICY_NAMES, ROUTER)
DEFAULT_CAPS: Final = (8, 9, 10, 12)
SHORT_SETTINGS: Final = {CAP: "cap_programs", "ttl": "ttl_s"}
"""The setting that a value without a name belongs to, as in ``cap:8``."""

ROUTER_SETTINGS: Final = frozenset(
    {
        "program_scheduling_enable_key",
        "binding_only",
        "global_queue",
        "resume_order",
        "cross_rank_headroom_ratio",
        "binding_strategy",
        "hash_virtual_nodes",
        "token_capacity_per_dp_rank",
        "max_active_programs_per_target",
        "metrics_interval_seconds",
        "admission_waiting_request_threshold",
        "queue_timeout_seconds",
        "force_resume_timeout_seconds",
        "paused_retention_ttl_seconds",
        "shared_prefix_freshness_warmup_seconds",
        "shared_prefix_freshness_kv_turnovers",
        "decode_buffer_tokens",
        "max_acting_ttl_seconds",
        "high_watermark_ratio",
        "low_watermark_ratio",
        "max_segment_rounds",
        "stats_window_size",
        "enable_batch_gain_admission",
        "prefill_cost_model.intercept_seconds",
        "prefill_cost_model.linear_seconds_per_1k_tokens",
        "prefill_cost_model.quadratic_seconds_per_1k_tokens_squared",
        "prefill_cost_model.decode_throughput_alpha",
        "decode_throughput_model.fixed_step_seconds",
        "decode_throughput_model.batch_step_seconds_per_request",
        "decode_throughput_model.context_step_seconds_per_token",
    }
)
"""What its documentation lists; kept here because the router itself ignores names that it does not know."""


@dataclass(frozen=True, slots=True)
class ArmSpec:
    """One arm.

    Args:
        name: as it was asked for, which is how tables call it.
        kind: ``direct``, one of our policies, or ``vllm-router``.
        settings: given beside the defaults, as text.
    """

    name: str
    kind: str
    settings: tuple[tuple[str, str], ...] = ()


def parse_arm(text: str) -> ArmSpec:
    """Read ``KIND`` or ``KIND:KEY=VALUE,…``; ``cap:8`` and ``ttl:5`` are short for their one setting.

    Raises:
        ValueError: there is no such arm or setting, or it does not take this value.
    """
    kind, colon, rest = text.partition(":")
    if kind not in KINDS:
        raise ValueError(f"unknown arm {kind!r}; the nearest is {_nearest(kind, KINDS)}")
    given = _pairs(kind, rest) if colon else ()
    if kind == ROUTER:
        _check_router(dict(given))
    elif kind != DIRECT:
        _check_ours(kind, dict(given))
    elif given:
        raise ValueError(f"{text}: {DIRECT} has no settings")
    return ArmSpec(text, kind, given)


def chosen_arms(names: Sequence[str], caps: Sequence[int]) -> list[ArmSpec]:
    """Return the arms of ``--arm`` and ``--cap``; without ``--arm`` the default ones. Raises ValueError."""
    capped = [f"{CAP}:{programs}" for programs in caps or (() if names else DEFAULT_CAPS)]
    defaults = [DIRECT, PASSTHROUGH, "sticky", "ttl", *capped, PAPER, ROUTER, QUICK_ROUTER]
    arms = [parse_arm(name) for name in ([*names, *capped] if names else defaults)]
    if len({arm.name for arm in arms}) < len(arms):
        raise ValueError("an arm was given twice")
    return arms


def router_setting(text: str) -> Any:
    """Return a value for vllm-router's JSON: text that is not JSON is a word."""
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text


def _pairs(kind: str, text: str) -> tuple[tuple[str, str], ...]:
    pairs = []
    for part in text.split(","):
        key, equals, value = part.partition("=")
        if not equals:
            if kind not in SHORT_SETTINGS:
                raise ValueError(f"{kind}:{text}: expected KEY=VALUE, not {part!r}")
            key, value = SHORT_SETTINGS[kind], part
        pairs.append((key, value))
    return tuple(pairs)


def _check_ours(kind: str, given: dict[str, str]) -> None:
    for key in given:
        if key not in settings():
            raise ValueError(f"unknown setting {key}; the nearest known one is {_nearest(key, settings())}")
    try:
        load_config(options={"policy": kind, **given})
    except ConfigError as error:
        raise ValueError(str(error)) from error


def _check_router(given: dict[str, str]) -> None:
    for key in given:
        if key not in ROUTER_SETTINGS:
            raise ValueError(f"unknown setting {key} of {ROUTER}; the nearest is {_nearest(key, ROUTER_SETTINGS)}")


def _nearest(name: str, known: Iterable[str]) -> str:
    return difflib.get_close_matches(name, sorted(known), n=1, cutoff=0.0)[0]
