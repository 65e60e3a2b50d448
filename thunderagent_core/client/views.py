"""What the server tells of its programs and backends. Fields that a server does not send keep their defaults."""

from __future__ import annotations

import msgspec


class HistoryEntry(msgspec.Struct, frozen=True, kw_only=True):
    """A change of a program's status, ``s_ago`` seconds before the view was made."""

    s_ago: float
    status: str
    reason: str


class ProgramView(msgspec.Struct, frozen=True, kw_only=True):
    """One program. Times are in seconds, sizes in tokens.

    Args:
        program_id: the client's name for the run.
        parent_id: the program that started it.
        group: the group given at registration.
        priority: lower runs earlier.
        status: active, paused or terminated.
        phase: reasoning (a request is open) or acting.
        backend: where it is placed.
        pause_pending: it is paused as soon as nothing of it is in flight.
        context_tokens: its context.
        shared_tokens: how much of it is a prefix that others share.
        phase_s: since when it is in this phase.
        in_flight: requests at an engine.
        held: requests that wait for a place.
        waiting_s: how long its present wait has lasted.
        waited_s: all its waits together.
        longest_wait_s: its longest wait.
        steps: turns finished.
        pauses: how often it was paused.
        moves: how often it came back to another backend than before.
        prompt_tokens: prompt tokens of all its requests.
        cached_tokens: those of them that the engine had cached.
        completion_tokens: tokens generated for it.
        tool: the tool that runs.
        interrupted: it waits for a person.
        history: its latest changes of status, oldest first.
    """

    program_id: str
    parent_id: str | None = None
    group: str | None = None
    priority: int = 0
    status: str = ""
    phase: str = ""
    backend: str | None = None
    pause_pending: bool = False
    context_tokens: int = 0
    shared_tokens: int = 0
    phase_s: float = 0.0
    in_flight: int = 0
    held: int = 0
    waiting_s: float | None = None
    waited_s: float = 0.0
    longest_wait_s: float = 0.0
    steps: int = 0
    pauses: int = 0
    moves: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0
    tool: str | None = None
    interrupted: bool = False
    history: tuple[HistoryEntry, ...] = ()

    @property
    def hit_rate(self) -> float | None:
        """Cached prompt tokens divided by prompt tokens; None before the first usage."""
        return self.cached_tokens / self.prompt_tokens if self.prompt_tokens else None


class ProgramList(msgspec.Struct, frozen=True, kw_only=True):
    """All programs that have not ended; ``waiting`` of them wait for a place."""

    programs: tuple[ProgramView, ...]
    waiting: int = 0


class EngineView(msgspec.Struct, frozen=True, kw_only=True):
    """What an engine said when it was last asked; counters are totals since its start.

    Args:
        kv_usage: share of its KV cache that running requests hold, 0 to 1.
        running: requests that it works on.
        waiting: requests in its own queue.
        prompt_tokens: prompt tokens looked up in the prefix cache.
        cached_tokens: those of them that were found.
        preemptions: requests thrown back into its queue for lack of memory.
    """

    kv_usage: float | None = None
    running: int | None = None
    waiting: int | None = None
    prompt_tokens: int | None = None
    cached_tokens: int | None = None
    preemptions: int | None = None


class BackendView(msgspec.Struct, frozen=True, kw_only=True):
    """One engine, as the server sees it.

    Args:
        id: its name in the API.
        url: where it is.
        kind: which engine, such as vllm; None before it first answered.
        healthy: it answers.
        draining: nothing new goes there.
        reason: why it is not healthy.
        capacity_tokens: size of its KV cache.
        demand_tokens: what the programs placed there count for.
        programs: how many are placed there.
        in_flight: requests that the server has sent there and that have not ended.
        models: names it serves.
        engine: its last sample.
    """

    id: str
    url: str = ""
    kind: str | None = None
    healthy: bool = False
    draining: bool = False
    reason: str | None = None
    capacity_tokens: int | None = None
    demand_tokens: float | None = None
    programs: int = 0
    in_flight: int = 0
    models: tuple[str, ...] = ()
    engine: EngineView | None = None


class BackendList(msgspec.Struct, frozen=True, kw_only=True):
    """All backends."""

    backends: tuple[BackendView, ...]


class Released(msgspec.Struct, frozen=True, kw_only=True):
    """Answer to a release; ``released`` False: the program had ended before."""

    program_id: str
    released: bool
