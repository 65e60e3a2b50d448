"""Ports of environments that share the host's network."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

from thunderagent_core.environments.base import ProviderError

if TYPE_CHECKING:
    from collections.abc import Mapping


def take_ports(wanted: Mapping[int, int]) -> dict[int, int]:
    """Return the host port for each port inside, with a free one in place of 0.

    Nothing is reserved: what listens later can still find its port taken.

    Raises:
        ProviderError: ``port_taken``: somebody listens on one that was leased.
    """
    return {inside: _free(outside) for inside, outside in wanted.items()}


def _free(port: int) -> int:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as servers do; what listens still refuses us
        try:
            probe.bind(("", port))
        except OSError as error:
            raise ProviderError(f"port {port} is taken: {error.strerror}", code="port_taken") from None
        return int(probe.getsockname()[1])
