"""What can go wrong while an environment is made, put into words."""

from __future__ import annotations

import logging
from typing import Final

from thunderagent_core.environments.base import ProviderError, ProviderUnavailableError
from thunderagent_core.environments.commands import ExecError
from thunderagent_core.environments.ledger_errors import LedgerError, PortLeasedError
from thunderagent_core.environments.manager.hooks import HookError
from thunderagent_core.environments.manager.record import Failure

_LOG = logging.getLogger(__name__)


class SetupError(Exception):
    """A set-up command failed; the text begins with its output."""


class SnapshotGoneError(Exception):
    """The snapshot from which an environment was to come back is not there any more, or damaged."""


class NoPortsError(Exception):
    """Too few ports of the range are free."""


_CODES: Final[tuple[tuple[type[Exception], str, bool], ...]] = (
    (SetupError, "setup_failed", True),
    (HookError, "hook_failed", True),
    (NoPortsError, "no_ports", False),
    (PortLeasedError, "no_ports", False),
    (LedgerError, "ledger_error", False),
)
"""Kind of error, its code, and whether trying again cannot help."""


def failure_of(error: Exception) -> Failure:
    """Say why an environment was not made. What nobody foresaw is logged as a bug."""
    if isinstance(error, ProviderUnavailableError):
        return Failure(error.code, str(error), unreachable=True)
    if isinstance(error, ProviderError):
        return Failure(error.code, str(error), permanent=error.permanent)
    if isinstance(error, TimeoutError):
        return Failure("creation_timeout", "making it took too long", unreachable=True)
    if isinstance(error, ExecError):
        return Failure(error.code, str(error))
    for kind, code, permanent in _CODES:
        if isinstance(error, kind):
            return Failure(code, str(error), permanent=permanent)
    _LOG.error("making an environment failed in a way that is a bug", exc_info=error)
    return Failure("internal_error", f"{type(error).__name__}: {error}")
