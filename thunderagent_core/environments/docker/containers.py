"""Containers: made, found, started, frozen and removed, each as often as anyone likes."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final
from weakref import WeakValueDictionary

from thunderagent_core.environments.base import Liveness, Place, ProviderError, ProviderUnavailableError, Sighting
from thunderagent_core.environments.docker import errors
from thunderagent_core.environments.docker.configuration import container_request
from thunderagent_core.environments.docker.inspection import (
    handle_of,
    labels_of,
    liveness_of,
    sighting_of,
    status_of,
)

if TYPE_CHECKING:
    from thunderagent_core.environments.base import Plan
    from thunderagent_core.environments.docker.daemon import Daemon
    from thunderagent_core.environments.docker.deaths import Removals
    from thunderagent_core.environments.docker.marks import Marks
    from thunderagent_core.environments.docker.networks import Network
    from thunderagent_core.environments.docker.underway import Underway

_ATTEMPTS: Final = 4
"""How often something is begun again that another's removal has come between."""
_UNFIT: Final = frozenset({"created", "dead", "removing"})
"""States that are made again: nothing ever ran in it, as after a port could not be published, or its end has begun."""
_LOG_LINES: Final = 20


class Containers:
    """The containers of one installation.

    Args:
        marks: of our installation.
        network: its network.
        underway: what has to end before a container is removed, by its place.
        removals: told of each container before it is removed.
    """

    def __init__(self, marks: Marks, network: Network, underway: Underway, removals: Removals) -> None:
        self._marks = marks
        self._network = network
        self._underway = underway
        self._removals = removals
        self._turns: WeakValueDictionary[Place, asyncio.Lock] = WeakValueDictionary()

    async def find(self, daemon: Daemon, handle: str) -> dict[str, Any] | None:
        """Return the description of our container of this name; None: there is no container of this name.

        Raises as ``Daemon.ask``, and ProviderError ``name_taken`` where the name belongs to one that is not ours.
        """
        try:
            found = await daemon.inspect(handle)
        except ProviderError as error:
            if error.code == errors.ENVIRONMENT_GONE:
                return None
            raise
        if not self._marks.owns_container(labels_of(found), handle) or handle_of(found) != handle:
            message = f"{daemon.url}: the container {handle} does not carry our label"
            raise ProviderError(message, code=errors.NAME_TAKEN, permanent=True)
        return found

    async def get(self, daemon: Daemon, handle: str) -> dict[str, Any]:
        """Return the description of our container. Raises as ``find``, and ProviderError ``environment_gone``."""
        found = await self.find(daemon, handle)
        if found is None:
            message = f"{daemon.url}: there is no container {handle}"
            raise ProviderError(message, code=errors.ENVIRONMENT_GONE, permanent=True)
        return found

    async def ensure(self, daemon: Daemon, plan: Plan, image: dict[str, Any]) -> Sighting:
        """Make and start the container of a plan from an image that is present, going on from what is there.

        Raises as ``run``.
        """
        turn = self._turns.setdefault(plan.place, asyncio.Lock())  # lives as long as somebody holds or awaits it
        async with turn:
            return await self._ensure(daemon, plan, image)

    async def _ensure(self, daemon: Daemon, plan: Plan, image: dict[str, Any]) -> Sighting:
        for _ in range(_ATTEMPTS):
            found = await self.find(daemon, plan.place.handle)
            if found is not None and status_of(found) in _UNFIT:
                await self.remove(daemon, plan.place)
                found = None
            if found is None:
                await self._make(daemon, plan, image)
            try:
                return await self.run(daemon, plan.place.handle)
            except ProviderError as error:
                if error.code not in {errors.NETWORK_GONE, errors.ENVIRONMENT_GONE}:
                    raise
        raise ProviderUnavailableError(f"{daemon.url}: {plan.place.handle} was removed each time that it was made")

    async def run(self, daemon: Daemon, handle: str) -> Sighting:
        """Start our container where it does not run, thaw it where it is frozen; return what it then looks like.

        Raises as ``get``, and ProviderError ``port_taken``, ``main_program_ended`` and the like.
        """
        found = await self.get(daemon, handle)
        container_id = str(found["Id"])
        liveness = liveness_of(status_of(found))
        if liveness is Liveness.FROZEN:
            await self.thaw(daemon, handle)
        elif liveness is not Liveness.ALIVE:
            await self._start(daemon, container_id)
        found = await self.get(daemon, handle)
        if liveness_of(status_of(found)) is not Liveness.ALIVE:
            raise await _ended(daemon, found)
        return sighting_of(found, daemon.host)

    async def freeze(self, daemon: Daemon, handle: str) -> None:
        """Pause our container. Raises as ``get``, and ProviderError ``environment_stopped``."""
        await self._pause(daemon, handle, frozen=True)

    async def thaw(self, daemon: Daemon, handle: str) -> None:
        """Unpause our container. Raises as ``freeze``."""
        await self._pause(daemon, handle, frozen=False)

    async def remove(self, daemon: Daemon, place: Place) -> None:
        """Remove our container, in any state, with its anonymous volumes; return once it is gone.

        Raises as ``find``.
        """
        await self._underway.settle(place)
        pause_s, problem = 0.01, None
        try:
            async with asyncio.timeout(daemon.effect_timeout_s):
                while (found := await self.find(daemon, place.handle)) is not None:
                    self._removals.add(str(found["Id"]))
                    problem = await _delete(daemon, str(found["Id"]))
                    if problem:
                        await asyncio.sleep(pause_s)
                        pause_s = min(1.0, pause_s * 2)
        except TimeoutError:
            raise ProviderUnavailableError(f"{daemon.url}: {place.handle} is still there: {problem}") from None

    async def _make(self, daemon: Daemon, plan: Plan, image: dict[str, Any]) -> None:
        """Make the container; where it exists by now, whoever made it, that is well."""
        network = await self._network.ensure(daemon) if plan.spec.networked else ""
        request = container_request(
            plan,
            image=str(image["Id"]),
            labels=self._marks.for_container(plan),
            volumes=(image.get("Config") or {}).get("Volumes") or (),
            network=network,
            publish_at=await daemon.publish_at(),
        )

        async def create() -> None:
            await daemon.act(lambda docker: docker.containers.create(request, name=plan.place.handle))

        try:
            await self._underway.run(create, plan.place)
        except ProviderError as error:
            if error.code != errors.NAME_TAKEN:
                raise

    async def _start(self, daemon: Daemon, container_id: str) -> None:
        try:
            await daemon.act(lambda docker: docker.containers.container(container_id).start())
        except ProviderError as error:
            if error.code != errors.NETWORK_GONE:
                raise
            await self._network.rejoin(daemon, container_id)
            await daemon.act(lambda docker: docker.containers.container(container_id).start())

    async def _pause(self, daemon: Daemon, handle: str, *, frozen: bool) -> None:
        wanted = Liveness.FROZEN if frozen else Liveness.ALIVE
        found = await self.get(daemon, handle)
        if liveness_of(status_of(found)) is wanted:
            return
        container_id = str(found["Id"])
        try:
            if frozen:
                await daemon.act(lambda docker: docker.containers.container(container_id).pause())
            else:
                await daemon.act(lambda docker: docker.containers.container(container_id).unpause())
        except ProviderUnavailableError:
            raise
        except ProviderError:
            if liveness_of(status_of(await self.get(daemon, handle))) is not wanted:
                raise


async def _delete(daemon: Daemon, container_id: str) -> str | None:
    """Remove a container. Returns why it did not succeed, where a later try may: it is being removed, or is busy."""
    try:
        await daemon.act(lambda docker: docker.containers.container(container_id).delete(force=True, v=True))
    except ProviderUnavailableError:
        raise
    except ProviderError as error:
        return str(error)
    return None


async def _ended(daemon: Daemon, container: dict[str, Any]) -> ProviderError:
    """Return the error for a container whose main program did not stay."""
    container_id, state = str(container["Id"]), container["State"]
    lines = await daemon.ask(
        lambda docker: docker.containers.container(container_id).log(stdout=True, stderr=True, tail=_LOG_LINES)
    )
    output = "".join(lines).strip() or state.get("Error") or "it printed nothing"
    message = f"the main program of {handle_of(container)} ended with status {state.get('ExitCode')}: {output}"
    return ProviderError(message, code="main_program_ended", permanent=True)
