"""Facts, in the past tense. They are all that the scheduler ever learns; the time comes beside them."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Outcome(StrEnum):
    """How a request ended. Each request that arrived ends exactly once."""

    COMPLETED = "completed"
    UPSTREAM_ERROR = "upstream_error"
    DISCONNECTED = "disconnected"
    TIMED_OUT = "timed_out"
    REFUSED = "refused"


@dataclass(frozen=True, slots=True)
class RequestArrived:
    """A client sent a request. ``program_id`` None means untracked: it is passed through.

    Args:
        request_id: unique among open requests.
        program_id: the program it belongs to; one that is unknown comes into being.
        model: the model asked for, where the body says.
        prompt_chars: characters of prompt text, from which tokens are estimated.
        prompt_tokens: exact prompt length in tokens, where the client sent token ids.
        patience_s: seconds that the client will wait for the first byte, where it says.
        environments: it declared tool environments of its program.
    """

    request_id: str
    program_id: str | None
    model: str | None = None
    prompt_chars: int = 0
    prompt_tokens: int | None = None
    patience_s: float | None = None
    environments: bool = False


@dataclass(frozen=True, slots=True)
class TokensGenerated:
    """The engine streamed ``tokens`` more tokens of an answer."""

    request_id: str
    tokens: int


@dataclass(frozen=True, slots=True)
class RequestEnded:
    """A request is over, however it went. Usage is in tokens, None where the engine did not say."""

    request_id: str
    outcome: Outcome
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    cached_tokens: int | None = None


@dataclass(frozen=True, slots=True)
class ForwardFailed:
    """A forwarded request got no byte of an answer and is safe to send again, so it waits again."""

    request_id: str
    backend_id: str


@dataclass(frozen=True, slots=True)
class ProgramRegistered:
    """A client announced a program before its first request. ``priority``: lower runs earlier, as in vLLM.

    ``environments``: it has tool environments that are to be made.
    """

    program_id: str
    parent_id: str | None = None
    group: str | None = None
    priority: int = 0
    environments: bool = False


@dataclass(frozen=True, slots=True)
class ProgramFound:
    """A program that was live under an earlier server still has environments: its lease runs from now on."""

    program_id: str
    parent_id: str | None = None


@dataclass(frozen=True, slots=True)
class EnvironmentsWanted:
    """A live program has environments that do not exist: declared only now, or dropped for want of disk."""

    program_id: str


@dataclass(frozen=True, slots=True)
class EnvironmentUsed:
    """A command began or ended in one of a program's environments: the program is alive."""

    program_id: str


@dataclass(frozen=True, slots=True)
class EnvironmentReady:
    """All environments of a program are made."""

    program_id: str


@dataclass(frozen=True, slots=True)
class EnvironmentFailed:
    """An environment of a program could not be made. The program runs on; its tools are told."""

    program_id: str


@dataclass(frozen=True, slots=True)
class ProgramReleased:
    """A program's run is over."""

    program_id: str
    reason: str = "released"


@dataclass(frozen=True, slots=True)
class ToolStarted:
    """An adapter saw a tool start."""

    program_id: str
    tool: str


@dataclass(frozen=True, slots=True)
class ToolEnded:
    """An adapter saw a tool end: the program's next request is near."""

    program_id: str
    tool: str


@dataclass(frozen=True, slots=True)
class ProgramIdled:
    """A run ended but its thread may come back: the cache may go, the idle lease runs."""

    program_id: str


@dataclass(frozen=True, slots=True)
class ProgramInterrupted:
    """A program waits for a person: the cache may go, the long lease runs."""

    program_id: str


@dataclass(frozen=True, slots=True)
class ProgramResumed:
    """An interrupted or idle program goes on."""

    program_id: str


@dataclass(frozen=True, slots=True)
class BackendAdded:
    """An engine was put under this scheduler; it gets no program before its first good sample."""

    backend_id: str


@dataclass(frozen=True, slots=True)
class BackendSampled:
    """An engine answered a poll, so it is healthy. Sizes in tokens.

    Args:
        backend_id: which engine.
        capacity_tokens: size C of its KV pool.
        models: names it serves; empty where unknown, which stands for any.
    """

    backend_id: str
    capacity_tokens: int
    models: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class BackendLost:
    """An engine does not answer; what it cached must be taken for gone."""

    backend_id: str


@dataclass(frozen=True, slots=True)
class BackendDrained:
    """An operator wants an engine out: nothing new goes there and it leaves once nothing is in flight."""

    backend_id: str


@dataclass(frozen=True, slots=True)
class Tick:
    """Nothing happened but time."""


Event = (
    RequestArrived
    | TokensGenerated
    | RequestEnded
    | ForwardFailed
    | ProgramRegistered
    | ProgramFound
    | EnvironmentsWanted
    | EnvironmentUsed
    | EnvironmentReady
    | EnvironmentFailed
    | ProgramReleased
    | ToolStarted
    | ToolEnded
    | ProgramIdled
    | ProgramInterrupted
    | ProgramResumed
    | BackendAdded
    | BackendSampled
    | BackendLost
    | BackendDrained
    | Tick
)
