"""What the manager, a command or a provider could not do, as errors of the API."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Final

from thunderagent_core.environments.base import ProviderError, ProviderUnavailableError
from thunderagent_core.environments.exec import ExecError
from thunderagent_core.environments.ledger_errors import LedgerError
from thunderagent_core.environments.manager.errors import EnvironmentProblemError, PreparationError
from thunderagent_core.environments.spec import SpecError
from thunderagent_core.server.errors import ApiError, spec_error

if TYPE_CHECKING:
    from collections.abc import Iterator

_RETRY_S: Final = 2.0

_STATUS: Final = {
    "program_not_found": 404,
    "environment_not_found": 404,
    "program_conflict": 409,
    "provider_not_found": 400,
    "environment_failed": 424,
    "environment_lost": 410,
    "bad_command": 400,
    "workdir_not_found": 400,
    "bad_path": 400,
    "is_a_directory": 400,
    "not_a_file": 400,
    "permission_denied": 403,
    "file_not_found": 404,
    "file_too_large": 413,
    "no_shell": 424,
    "environment_died": 410,
    "channel_lost": 502,
    "kill_failed": 502,
}
"""Status by code; what is missing here has not begun and may go better another time: 503."""

_PARAM: Final = {
    "bad_command": "command",
    "workdir_not_found": "workdir",
    "bad_path": "path",
    "is_a_directory": "path",
    "not_a_file": "path",
    "permission_denied": "path",
    "file_not_found": "path",
    "file_too_large": "path",
    "program_conflict": "environments",
    "provider_not_found": "provider",
    "program_not_found": "program_id",
    "environment_not_found": "name",
}


@contextlib.contextmanager
def as_api_errors() -> Iterator[None]:
    """Turn what goes wrong with environments into answers."""
    try:
        yield
    except SpecError as error:
        raise spec_error(error) from error
    except PreparationError as error:
        raise _error(error.code, f"{error} ({error.cause})") from error
    except EnvironmentProblemError as error:
        raise _error(error.code, str(error)) from error
    except ExecError as error:
        raise _error(error.code, str(error)) from error
    except ProviderError as error:
        unavailable = isinstance(error, ProviderUnavailableError)
        raise _error("environment_unreachable" if unavailable else error.code, str(error)) from error
    except LedgerError as error:
        raise _error("environments_unavailable", str(error)) from error


def disabled() -> ApiError:
    """Return the answer where the server runs no environments."""
    text = "This server runs no tool environments; start it with --environments auto."
    return ApiError(400, text, code="environments_disabled", param="environments", permanent=True)


def _error(code: str, text: str) -> ApiError:
    message = text if text.endswith(".") else f"{text}."
    status = _STATUS.get(code)
    if status is None:
        return ApiError(503, message, code=code, retry_after_s=_RETRY_S)
    return ApiError(status, message, code=code, param=_PARAM.get(code), permanent=True)
