"""The one network of an installation: its containers reach the outside, but not one another."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from thunderagent_core.environments.base import ProviderError
from thunderagent_core.environments.docker.daemon import filter_text
from thunderagent_core.environments.docker.errors import NAME_TAKEN, NETWORK_GONE, NETWORK_IN_USE

if TYPE_CHECKING:
    from thunderagent_core.environments.docker.daemon import Daemon
    from thunderagent_core.environments.docker.marks import Marks

_OPTIONS: Final = {"com.docker.network.bridge.enable_icc": "false"}


class Network:
    """Made when a container needs it, removed when none is left.

    Args:
        marks: of our installation.
    """

    def __init__(self, marks: Marks) -> None:
        self._marks = marks
        self._making = asyncio.Lock()  # Docker lets two networks have one name

    async def ensure(self, daemon: Daemon) -> str:
        """Make it where it is missing and return its name. Raises as ``Daemon.ask``, and ProviderError name_taken."""
        name = self._marks.network
        async with self._making:
            named = {"name": [name]}
            for network in await daemon.ask(lambda docker: docker.networks.list(filters=named)):
                if network["Name"] == name:
                    if not self._marks.owns(network.get("Labels")):
                        raise ProviderError(f"the network {name} is not ours", code=NAME_TAKEN, permanent=True)
                    return name
            request = {
                "Name": name,
                "Driver": "bridge",
                "CheckDuplicate": True,
                "Labels": self._marks.for_network(),
                "Options": _OPTIONS,
            }
            await daemon.act(lambda docker: docker.networks.create(request))
        return name

    async def rejoin(self, daemon: Daemon, container_id: str) -> None:
        """Attach a container that does not run to it again, after it was removed and made anew. Raises as ``ensure``.

        The daemon knows the network of one that has run by its id, not by its name.
        """
        name = await self.ensure(daemon)
        network = await daemon.ask(lambda docker: docker.networks.get(name))
        await daemon.act(lambda _: network.connect({"Container": container_id}))

    async def drop_idle(self, daemon: Daemon) -> None:
        """Remove it where no container, running or not, is attached. Raises as ``Daemon.ask``."""
        for network in await daemon.ask(lambda docker: docker.networks.list(filters=self._marks.search())):
            attached = filter_text({"network": [network["Id"]]})
            if not await daemon.ask(lambda docker: docker.containers.list(all=True, filters=attached)):  # noqa: B023
                await _drop(daemon, network["Id"])


async def _drop(daemon: Daemon, network_id: str) -> None:
    """Remove a network. One that has got a container in the meantime stays; one that has gone is gone."""
    try:
        network = await daemon.ask(lambda docker: docker.networks.get(network_id))
        await daemon.act(lambda _: network.delete())
    except ProviderError as error:
        if error.code not in {NETWORK_GONE, NETWORK_IN_USE}:
            raise
