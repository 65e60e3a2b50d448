"""Builds the manager of tool environments from the configuration, and takes it down without losing any."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec

from thunderagent_core.environments.base import Provider, ProviderError
from thunderagent_core.environments.docker.provider import DEFAULT_ENDPOINT, DockerProvider
from thunderagent_core.environments.ledger import Ledger
from thunderagent_core.environments.ledger_errors import LedgerError
from thunderagent_core.environments.manager.manager import Manager
from thunderagent_core.environments.manager.settings import ManagerSettings, WarmPool
from thunderagent_core.environments.process.provider import ProcessProvider
from thunderagent_core.environments.spec import SpecError, read_specs
from thunderagent_core.server.environments import Environments

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator, Mapping

    from thunderagent_core.config import ServerConfig
    from thunderagent_core.server.runtime import Runtime

_LOG = logging.getLogger(__name__)

_STATE_DIR: Final = "~/.local/state/thunderagent"
_LOOK_S: Final = 10.0
"""Longest wait at start for a Docker daemon's answer."""


class EnvironmentsError(Exception):
    """Tool environments cannot be run as configured; the text is one line that says why."""


class _Pool(msgspec.Struct, forbid_unknown_fields=True):
    """One entry of the file ``warm_pools``."""

    size: int
    spec: dict[str, object]


@contextlib.asynccontextmanager
async def managed(config: ServerConfig, runtime: Runtime) -> AsyncIterator[Environments]:
    """Run the manager. Raises EnvironmentsError."""
    state = config.state_dir or _default_state_dir()
    with _sole_owner(state):
        try:
            ledger = await Ledger.open(state / "environments.sqlite")
        except LedgerError as error:
            raise EnvironmentsError(str(error)) from error
        async with contextlib.AsyncExitStack() as stack:
            stack.push_async_callback(ledger.aclose)
            providers, default = await _providers(config, ledger.installation, state)
            for provider in providers.values():
                stack.push_async_callback(provider.aclose)
            manager = await Manager.start(ledger, providers, _settings(config, default))
            stack.push_async_callback(manager.aclose)
            environments = Environments(manager, runtime)
            stack.push_async_callback(environments.aclose)
            environments.start()
            yield environments


def _default_state_dir() -> Path:
    return Path(_STATE_DIR).expanduser()


@contextlib.contextmanager
def _sole_owner(state: Path) -> Iterator[None]:
    """Keep other servers out of the state directory; the lock goes with the process, however that ends."""
    try:
        state.mkdir(parents=True, exist_ok=True, mode=0o700)
        lock = (state / "lock").open("w")
    except OSError as error:
        raise EnvironmentsError(f"state_dir {state} cannot be used: {error.strerror or error}") from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            text = f"state_dir {state} is used by another server; give each one its own with --state-dir"
            raise EnvironmentsError(text) from None
        yield


async def _providers(config: ServerConfig, installation: str, state: Path) -> tuple[Mapping[str, Provider], str]:
    """Return the providers by name, and which of them is the default."""
    providers: dict[str, Provider] = {}
    problems = []
    if config.environments in {"auto", "docker"}:
        endpoints = config.docker_hosts or (DEFAULT_ENDPOINT,)
        try:
            providers["docker"] = DockerProvider(installation=installation, endpoints=endpoints)
        except ProviderError as error:
            problems.append(str(error))
    if config.environments in {"auto", "process"}:
        try:
            providers["process"] = ProcessProvider(installation=installation, root=state / "sandboxes")
        except ProviderError as error:
            problems.append(str(error))
    if not providers:
        raise EnvironmentsError(f"no tool environments can be run here: {'; '.join(problems)}")
    return providers, await _default(providers)


async def _default(providers: Mapping[str, Provider]) -> str:
    """Return the first that answers; where none does, the first: it may come up later."""
    for name, provider in providers.items():
        try:
            async with asyncio.timeout(_LOOK_S):
                await provider.rooms()
        except (ProviderError, TimeoutError) as error:
            _LOG.warning("%s does not answer yet: %s", name, error)
        else:
            return name
    return next(iter(providers))


def _settings(config: ServerConfig, default: str) -> ManagerSettings:
    standard = ManagerSettings()
    first, _, last = (config.environment_ports or "").partition("-")
    return ManagerSettings(
        default_provider=default,
        max_creations=config.environment_max_creations or standard.max_creations,
        creation_timeout_s=config.environment_creation_timeout_s,
        freeze_after_s=config.environment_freeze_after_s,
        disk_budget_bytes=config.environment_disk_budget_bytes,
        disk_floor_bytes=config.environment_disk_floor_bytes,
        image_high_bytes=config.environment_image_high_bytes,
        image_low_bytes=config.environment_image_low_bytes,
        first_port=int(first) if first else None,
        last_port=int(last or 0),
        quarantine_grace_s=config.environment_quarantine_grace_s,
        reconcile_interval_s=config.environment_reconcile_interval_s,
        warm=() if config.warm_pools is None else _warm_pools(config.warm_pools),
    )


def _warm_pools(file: Path) -> tuple[WarmPool, ...]:
    try:
        pools = msgspec.json.decode(file.read_bytes(), type=list[_Pool])
        return tuple(WarmPool(read_specs([pool.spec])[0], pool.size) for pool in pools)
    except SpecError as error:
        raise EnvironmentsError(f"warm_pools {file}: {error.param}: {error}") from error
    except (OSError, msgspec.MsgspecError) as error:
        raise EnvironmentsError(f"warm_pools {file}: {error}") from error
