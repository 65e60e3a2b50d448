"""The life of one environment: one table of legal changes, as in ``scheduling/program.py``."""

from __future__ import annotations

from enum import StrEnum


class State(StrEnum):
    """Where an environment stands. Every change is durable in the ledger before it has any effect outside."""

    REQUESTED = "requested"
    """Wanted; nothing exists outside."""
    PREPARING = "preparing"
    """Being made, or made again from its snapshot: from here on anything may exist outside."""
    READY = "ready"
    """Made and untouched: it may be made again from its specification without a loss."""
    IN_USE = "in_use"
    """Its program has used it: what is in it exists nowhere else."""
    PAUSED = "paused"
    """Frozen: it holds memory and disk but no processor."""
    SNAPSHOTTED = "snapshotted"
    """Only its verified snapshot exists; it is made again when its program returns."""
    RECLAIMING = "reclaiming"
    """Being destroyed: there was positive evidence that nobody needs it."""
    GONE = "gone"
    """Nothing of it exists outside. Kept as bounded history."""
    FAILED = "failed"
    """It could not be made; what was made of it has been taken back."""
    LOST = "lost"
    """It had been used and is gone for reasons outside: the answer is ``environment_lost``, never a blank one."""
    QUARANTINED = "quarantined"
    """It carries our label but the ledger does not know it: kept for a grace period, then reclaimed."""


TRANSITIONS: dict[State, frozenset[State]] = {
    State.REQUESTED: frozenset({State.PREPARING, State.FAILED, State.RECLAIMING}),
    State.PREPARING: frozenset(
        {State.READY, State.IN_USE, State.SNAPSHOTTED, State.FAILED, State.LOST, State.RECLAIMING}
    ),
    State.READY: frozenset({State.IN_USE, State.PAUSED, State.PREPARING, State.RECLAIMING}),
    State.IN_USE: frozenset({State.PAUSED, State.LOST, State.RECLAIMING}),
    State.PAUSED: frozenset(
        {State.IN_USE, State.READY, State.SNAPSHOTTED, State.PREPARING, State.LOST, State.RECLAIMING}
    ),
    State.SNAPSHOTTED: frozenset({State.PREPARING, State.PAUSED, State.LOST, State.RECLAIMING}),
    State.FAILED: frozenset({State.PREPARING, State.RECLAIMING}),
    State.LOST: frozenset({State.RECLAIMING}),
    State.QUARANTINED: frozenset({State.RECLAIMING}),
    State.RECLAIMING: frozenset({State.GONE}),
    State.GONE: frozenset(),
}
"""Every legal change. READY to PREPARING: an untouched one died and is made again. PREPARING to IN_USE: it came
back from its snapshot; to SNAPSHOTTED: it could not come back for now. SNAPSHOTTED to PAUSED: its snapshot proved
useless while the original was still there."""


class IllegalTransitionError(Exception):
    """A change that ``TRANSITIONS`` does not allow: a bug. Its text names both states and the environment."""


def check_transition(environment_id: str, before: State, after: State) -> None:
    """Raise IllegalTransitionError where ``TRANSITIONS`` has no such change."""
    if after not in TRANSITIONS[before]:
        raise IllegalTransitionError(f"{environment_id}: {before} -> {after}")
