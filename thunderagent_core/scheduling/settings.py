"""What an operator may set about scheduling; every number carries its unit in its name."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class SchedulerSettings:
    """Settings of the core. The server's configuration checks the ranges; the core trusts them.

    Args:
        tick_s: seconds between backstop passes while anything is placed or waiting (the paper's Δt).
        high_watermark: λ_max, share of a backend's KV pool above which programs are paused.
        low_watermark: λ_min, share of the pool below which programs are restored.
        decay_base: x of f(t) = x^(−t / decay_interval_s), eq 7; 1 switches the decay off.
        decay_interval_s: seconds in which an acting program's weight falls by the factor x.
        growth_reserve_tokens: tokens added to the demand of every active program, for its next turn.
        max_wait_s: longest time in seconds that a program's requests may be held.
        idle_lease_s: seconds without a request or event after which a program is ended.
        interrupt_lease_s: the same for a program that waits for a person.
        home_window_s: seconds after a pause in which the cache is taken to be still at its last backend.
        discount_shared_prefix: count a prefix that other programs share once instead of for each program.
        prepare_ahead: waiting programs whose tool environments are made before they are restored, at most.
        cap_programs: policy ``cap``: programs active at once on each backend.
        ttl_s: policy ``ttl``: seconds for which an acting program's cache is held.
    """

    tick_s: float = 1.0
    high_watermark: float = 1.0
    low_watermark: float = 1.0
    decay_base: float = 2.0
    decay_interval_s: float = 5.0
    growth_reserve_tokens: int = 256
    max_wait_s: float = 300.0
    idle_lease_s: float = 1800.0
    interrupt_lease_s: float = 86400.0
    home_window_s: float = 10.0
    discount_shared_prefix: bool = True
    prepare_ahead: int = 8
    cap_programs: int = 8
    ttl_s: float = 10.0
