"""What the API shows of programs and backends: plain dictionaries, made when somebody asks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from thunderagent_core.scheduling.backend import Backend
    from thunderagent_core.scheduling.program import Program
    from thunderagent_core.server.fleet import Engine


def program_view(program: Program, now: float) -> dict[str, Any]:
    """Return a live program as JSON; times are seconds relative to now, sizes are tokens."""
    held = program.held
    waiting_s = now - program.waiting_since if held and program.waiting_since is not None else 0.0
    return {
        "program_id": program.id,
        "parent_id": program.parent_id,
        "group": program.group,
        "priority": program.priority,
        "status": program.status,
        "phase": program.phase,
        "backend": None if program.backend is None else program.backend.id,
        "pause_pending": program.marked is not None,
        "context_tokens": program.context_tokens,
        "shared_tokens": program.shared_tokens,
        "phase_s": round(now - program.phase_since, 3),
        "in_flight": len(program.requests) - len(held),
        "held": len(held),
        "waiting_s": round(waiting_s, 3),
        "waited_s": round(program.waited_s + waiting_s, 3),
        "longest_wait_s": round(max(program.longest_wait_s, waiting_s), 3),
        "steps": program.steps,
        "pauses": program.pauses,
        "moves": program.moves,
        "prompt_tokens": program.prompt_tokens,
        "cached_tokens": program.cached_tokens,
        "completion_tokens": program.completion_tokens,
        "tool": program.tool,
        "interrupted": program.interrupted,
        "history": [
            {"s_ago": round(now - at, 3), "status": status, "reason": reason} for at, status, reason in program.history
        ],
    }


def backend_view(engine: Engine, backend: Backend, now: float) -> dict[str, Any]:
    """Return a backend as JSON: what the scheduler counts there, and what the engine said last."""
    sample = engine.sample
    return {
        "id": engine.id,
        "url": engine.url,
        "kind": None if engine.client is None else engine.client.kind,
        "healthy": backend.healthy,
        "draining": backend.draining,
        "reason": engine.problem,
        "capacity_tokens": backend.capacity_tokens or None,
        "demand_tokens": round(backend.demand(now) + backend.leaving),
        "programs": len(backend.programs),
        "in_flight": len(backend.in_flight),
        "models": sorted(backend.models),
        "engine": None
        if sample is None
        else {
            "kv_usage": sample.kv_usage,
            "running": sample.running,
            "waiting": sample.waiting,
            "prompt_tokens": sample.prompt_tokens,
            "cached_tokens": sample.cached_tokens,
            "preemptions": sample.preemptions,
        },
    }
