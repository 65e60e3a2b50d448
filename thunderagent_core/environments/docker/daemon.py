"""One Docker daemon: every question is bounded in time and fails with one kind of error."""

from __future__ import annotations

import asyncio
import importlib
import ipaddress
import json
from typing import TYPE_CHECKING, Any, Final, TypeVar
from urllib.parse import urlsplit
from weakref import WeakSet

from thunderagent_core.environments.base import ProviderError, ProviderUnavailableError
from thunderagent_core.environments.docker.errors import refusal

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    import aiodocker
    import aiohttp

    from thunderagent_core.environments.docker.hijack import Connection

T = TypeVar("T")

_LOOPBACK: Final = "127.0.0.1"


def require_aiodocker() -> None:
    """Raise ProviderError ``docker_not_installed`` where the client library is missing."""
    try:
        importlib.import_module("aiodocker")
    except ImportError as error:
        message = "the docker provider needs aiodocker: pip install 'thunderagent[docker]'"
        raise ProviderError(message, code="docker_not_installed", permanent=True) from error


class Daemon:
    """One daemon. Its connections are made when needed and again after it was restarted.

    Args:
        url: ``unix:///path/to/socket`` or ``tcp://host:port``. Raises ValueError for anything else.
        timeout_s: longest time for a question, in seconds.
        effect_timeout_s: longest time for making, starting, copying or removing something, in seconds.
    """

    def __init__(self, url: str, *, timeout_s: float, effect_timeout_s: float) -> None:
        parts = urlsplit(url)
        usable = {"unix": parts.path.startswith("/") and not parts.netloc, "tcp": bool(parts.hostname and parts.port)}
        if not usable.get(parts.scheme):
            raise ValueError(f"not a Docker endpoint: {url!r}; allowed are unix:///path and tcp://host:port")
        self.url = url
        self.path = parts.path if parts.scheme == "unix" else None
        self.address = (parts.hostname or "localhost", parts.port or 0)
        self.timeout_s = timeout_s
        self.effect_timeout_s = effect_timeout_s
        self.closed = asyncio.Event()
        self.streams: WeakSet[Connection] = WeakSet()
        self._opened: tuple[aiodocker.Docker, aiohttp.BaseConnector] | None = None

    @property
    def local(self) -> bool:
        """Whether the daemon's directories are this machine's."""
        return self.path is not None or _is_loopback(self.address[0])

    @property
    def host(self) -> str:
        """Where published ports are reached."""
        return _LOOPBACK if self.local else self.address[0]

    async def publish_at(self) -> str:
        """Return the address of the daemon's machine at which ports are published: that by which we reach it."""
        if self.local:
            return _LOOPBACK
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(self.timeout_s):
                found = await loop.getaddrinfo(self.address[0], self.address[1])
        except OSError as error:
            raise ProviderUnavailableError(f"{self.url}: {error}") from error
        return str(found[0][4][0])

    async def ask(self, question: Callable[[aiodocker.Docker], Awaitable[T]]) -> T:
        """Ask something. Raises ProviderUnavailableError, and ProviderError for the daemon's refusal."""
        return await self._call(question, self.timeout_s)

    async def act(self, effect: Callable[[aiodocker.Docker], Awaitable[T]], *, timeout_s: float | None = None) -> T:
        """Have something done. Raises as ``ask`` does; after ProviderUnavailableError it may happen yet."""
        return await self._call(effect, timeout_s or self.effect_timeout_s)

    async def inspect(self, handle: str) -> dict[str, Any]:
        """Return the description of a container. Raises as ``ask`` does."""
        return await self.ask(lambda docker: docker.containers.container(handle).show())

    async def aclose(self) -> None:
        """Close the connections, those of commands too; questions fail from now on."""
        self.closed.set()
        for stream in list(self.streams):
            await stream.aclose()
        if self._opened is not None:
            docker, connector = self._opened
            self._opened = None
            await docker.close()
            await connector.close()

    async def _call(self, question: Callable[[aiodocker.Docker], Awaitable[T]], timeout_s: float) -> T:
        import aiodocker  # noqa: PLC0415 - the core works without it
        import aiohttp  # noqa: PLC0415

        try:
            async with asyncio.timeout(timeout_s):
                return await question(self._client())
        except aiodocker.DockerError as error:
            raise refusal(error.status, f"{self.url}: {error.message}") from error
        except TimeoutError as error:
            raise ProviderUnavailableError(f"{self.url} did not answer within {timeout_s:g} s") from error
        except (aiohttp.ClientError, OSError) as error:
            raise ProviderUnavailableError(f"{self.url}: {error or type(error).__name__}") from error
        except (ValueError, KeyError, TypeError) as error:  # no JSON, or without what every answer has
            raise ProviderUnavailableError(f"{self.url} does not answer as a Docker daemon does: {error!r}") from error

    def _client(self) -> aiodocker.Docker:
        """Return the client. Its own connector would let only 100 streams be open at a time; ours has no limit."""
        import aiodocker  # noqa: PLC0415
        import aiohttp  # noqa: PLC0415

        if self.closed.is_set():
            raise ProviderUnavailableError(f"the connections to {self.url} were closed")
        if self._opened is None:
            connector: aiohttp.BaseConnector
            if self.path is None:
                url, connector = (
                    f"http://{_bracketed(self.address[0])}:{self.address[1]}",
                    aiohttp.TCPConnector(limit=0),
                )
            else:
                url, connector = "unix://localhost", aiohttp.UnixConnector(self.path, limit=0)
            self._opened = (aiodocker.Docker(url, connector), connector)
        return self._opened[0]


def filter_text(filters: Mapping[str, list[str]]) -> str:
    """Return a filter as lists of containers take it."""
    return json.dumps(filters)


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _bracketed(host: str) -> str:
    """Return a host as URLs have it."""
    return f"[{host}]" if ":" in host else host
