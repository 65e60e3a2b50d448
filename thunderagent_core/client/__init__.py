"""The SDK: programs, their requests and their events, over HTTP. It needs httpx and msgspec and none of the server.

    with Client("http://127.0.0.1:8300") as client, client.program("job-7") as p:
        answer = p.chat(model="qwen3", messages=[{"role": "user", "content": "Fix the failing test."}])
        with p.tool("bash"):
            ...

``docs/client.md`` is the guide.
"""

from thunderagent_core.client.async_client import AsyncClient
from thunderagent_core.client.async_environment import AsyncEnvironment
from thunderagent_core.client.async_program import AsyncProgram
from thunderagent_core.client.environment import Environment
from thunderagent_core.client.environment_views import (
    CommandFailedError,
    EnvironmentView,
    ExecOutput,
    ExecResult,
    ReapItem,
)
from thunderagent_core.client.errors import (
    APIError,
    AuthenticationError,
    BadRequestError,
    ConflictError,
    NotFoundError,
    ServerError,
    StreamInterruptedError,
    ThunderAgentError,
    UnavailableError,
    UnexpectedAnswerError,
    UnreachableError,
)
from thunderagent_core.client.program import Program
from thunderagent_core.client.retry import RetryPolicy
from thunderagent_core.client.streams import AsyncStream, Stream
from thunderagent_core.client.sync_client import Client
from thunderagent_core.client.views import BackendView, EngineView, HistoryEntry, ProgramList, ProgramView

__all__ = [
    "APIError",
    "AsyncClient",
    "AsyncEnvironment",
    "AsyncProgram",
    "AsyncStream",
    "AuthenticationError",
    "BackendView",
    "BadRequestError",
    "Client",
    "CommandFailedError",
    "ConflictError",
    "EngineView",
    "Environment",
    "EnvironmentView",
    "ExecOutput",
    "ExecResult",
    "HistoryEntry",
    "NotFoundError",
    "Program",
    "ProgramList",
    "ProgramView",
    "ReapItem",
    "RetryPolicy",
    "ServerError",
    "Stream",
    "StreamInterruptedError",
    "ThunderAgentError",
    "UnavailableError",
    "UnexpectedAnswerError",
    "UnreachableError",
]
