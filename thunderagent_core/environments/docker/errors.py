"""What a daemon's refusal means, by its status and words: its API gives no finer codes."""

from __future__ import annotations

from typing import Final, NamedTuple

from thunderagent_core.environments.base import ProviderError, ProviderUnavailableError

IMAGE_NOT_FOUND: Final = "image_not_found"
NAME_TAKEN: Final = "name_taken"
NETWORK_GONE: Final = "network_gone"
NETWORK_IN_USE: Final = "network_in_use"
IMAGE_IN_USE: Final = "image_in_use"
PORT_TAKEN: Final = "port_taken"
ENVIRONMENT_GONE: Final = "environment_gone"
ENVIRONMENT_FROZEN: Final = "environment_frozen"
ENVIRONMENT_STOPPED: Final = "environment_stopped"
PROCESS_LOST: Final = "process_lost"
VOLUME_GONE: Final = "volume_gone"

NO_CONNECTION: Final = 900
"""The status that aiodocker gives to an error of the connection."""

_NOT_FOUND: Final = 404
_BAD_REQUEST: Final = 400
_UNAVAILABLE: Final = 503


class _Meaning(NamedTuple):
    words: str
    code: str
    permanent: bool


_MEANINGS: Final = (
    _Meaning("no such image", IMAGE_NOT_FOUND, True),
    _Meaning("manifest unknown", IMAGE_NOT_FOUND, True),
    _Meaning("pull access denied", IMAGE_NOT_FOUND, True),
    _Meaning("invalid reference format", IMAGE_NOT_FOUND, True),
    _Meaning("no such container", ENVIRONMENT_GONE, True),
    _Meaning("no such volume", VOLUME_GONE, True),
    _Meaning("no such exec", PROCESS_LOST, True),
    _Meaning("has active endpoints", NETWORK_IN_USE, False),
    _Meaning("unable to remove repository reference", IMAGE_IN_USE, False),
    _Meaning("unable to delete", IMAGE_IN_USE, False),
    _Meaning("port is already allocated", PORT_TAKEN, False),
    _Meaning("address already in use", PORT_TAKEN, False),
    _Meaning("is already in use by container", NAME_TAKEN, True),
    _Meaning("is paused", ENVIRONMENT_FROZEN, False),
    _Meaning("in a paused state", ENVIRONMENT_FROZEN, False),
    _Meaning("in a stopped state", ENVIRONMENT_STOPPED, False),
    _Meaning("unable to create new parent process", ENVIRONMENT_STOPPED, False),
    _Meaning("is not running", ENVIRONMENT_STOPPED, False),
    _Meaning("is not paused", ENVIRONMENT_STOPPED, False),
    _Meaning("no space left on device", "disk_full", False),
    _Meaning("max depth exceeded", "snapshot_too_deep", True),
    _Meaning("bind source path does not exist", "mount_source_missing", True),
    _Meaning("executable file not found", "command_not_found", True),
    _Meaning("dial tcp", "registry_unreachable", False),
    _Meaning("net/http:", "registry_unreachable", False),
    _Meaning("i/o timeout", "registry_unreachable", False),
)
"""Compared with the message in lower case; the first that it holds decides."""


def refusal(status: int, message: str) -> ProviderError:
    """Return the error for what a daemon answered with an HTTP ``status`` (0: within a stream) and ``message``."""
    if status in {NO_CONNECTION, _UNAVAILABLE}:
        return ProviderUnavailableError(message)
    text = message.lower()
    if status == _NOT_FOUND and "network" in text:
        return ProviderError(message, code=NETWORK_GONE)
    for meaning in _MEANINGS:
        if meaning.words in text:
            return ProviderError(message, code=meaning.code, permanent=meaning.permanent)
    return ProviderError(message, code=f"docker_{status or 'error'}", permanent=status == _BAD_REQUEST)
