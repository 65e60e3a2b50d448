"""What users want done when an environment is ready or about to be reclaimed."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Protocol

import httpx

from thunderagent_core.environments.commands import ExecRequest

if TYPE_CHECKING:
    from collections.abc import Mapping

    from thunderagent_core.environments.exec import Executor
    from thunderagent_core.environments.manager.record import Record
    from thunderagent_core.environments.spec import Hook

_FIRST_ERROR_STATUS = 300
_SHOWN_CHARS = 500


class HookError(Exception):
    """A hook failed or took too long."""


class Post(Protocol):
    """Sends JSON somewhere."""

    async def __call__(self, url: str, content: Mapping[str, Any], timeout_s: float) -> int:
        """Return the HTTP status. Raises OSError or httpx.HTTPError where there is no answer."""
        ...


class JsonPost:
    """Sends JSON by HTTP. Redirects are not followed, and proxies of the server's surroundings not used."""

    def __init__(self) -> None:
        self._client: httpx.AsyncClient | None = None

    async def __call__(self, url: str, content: Mapping[str, Any], timeout_s: float) -> int:
        """Return the HTTP status. Raises httpx.HTTPError where there is no answer."""
        if self._client is None:  # most servers never need one, and it takes a while to make
            self._client = httpx.AsyncClient(trust_env=False)
        return (await self._client.post(url, json=content, timeout=timeout_s)).status_code

    async def aclose(self) -> None:
        """Close connections."""
        if self._client is not None:
            await self._client.aclose()


class Hooks:
    """Runs hooks.

    Args:
        post: sends those that are addresses.
    """

    def __init__(self, post: Post) -> None:
        self._post = post

    async def run(self, hook: Hook, event: str, record: Record, executor: Executor | None) -> None:
        """Run one hook, within its time limit.

        Raises HookError where it fails or takes too long, and what the executor raises. A command is passed over
        where there is no executor, because the environment does not exist.
        """
        try:
            async with asyncio.timeout(hook.timeout_s):
                if hook.url is not None:
                    await self._call(hook.url, hook.timeout_s, event, record)
                elif hook.command is not None and executor is not None:
                    await _command(hook.command, hook.timeout_s, event, executor)
        except TimeoutError:
            raise HookError(f"the hook on_{event} took more than {hook.timeout_s:g} s") from None

    async def _call(self, url: str, timeout_s: float, event: str, record: Record) -> None:
        content = {
            "event": event,
            "environment_id": record.id,
            "name": record.row.name,
            "program_id": None if record.program is None else record.program.row.id,
        }
        try:
            status = await self._post(url, content, timeout_s)
        except (httpx.HTTPError, httpx.InvalidURL, OSError) as error:
            raise HookError(f"the hook on_{event} got no answer from {url}: {error}") from error
        if status >= _FIRST_ERROR_STATUS:
            raise HookError(f"the hook on_{event} got status {status} from {url}")


async def _command(command: str, timeout_s: float, event: str, executor: Executor) -> None:
    result = await executor.run(ExecRequest(command=command, timeout_s=timeout_s))
    if result.exit_code:
        shown = (result.stderr or result.stdout).decode("utf-8", "replace")[:_SHOWN_CHARS]
        raise HookError(f"the hook on_{event} ended with exit status {result.exit_code}: {shown}")
