"""What the manager answers when it cannot do what was asked. ``code`` is a word for programs, the text for people."""

from __future__ import annotations

from typing import ClassVar


class EnvironmentProblemError(Exception):
    """An environment cannot be had. ``retry`` tells whether asking again later may help."""

    code: ClassVar[str] = "environment_error"
    retry: ClassVar[bool] = False


class UnknownProgramError(EnvironmentProblemError):
    """No live program has this id."""

    code = "program_not_found"


class UnknownEnvironmentError(EnvironmentProblemError):
    """The program has no environment of this name."""

    code = "environment_not_found"


class ConflictError(EnvironmentProblemError):
    """The program, or its environment of this name, was declared differently before."""

    code = "program_conflict"


class UnknownProviderError(EnvironmentProblemError):
    """This server does not run the provider that was asked for."""

    code = "provider_not_found"


class PreparationError(EnvironmentProblemError):
    """The environment could not be made; ``cause`` is a word for why, such as ``image_not_found``."""

    code = "environment_failed"

    def __init__(self, message: str, cause: str) -> None:
        super().__init__(message)
        self.cause = cause


class EnvironmentLostError(EnvironmentProblemError):
    """It had been used and is gone. It is never replaced by a blank one: delete it and declare it again."""

    code = "environment_lost"


class NotReadyError(EnvironmentProblemError):
    """It was not ready within the time given; it goes on being prepared."""

    code = "environment_not_ready"
    retry = True


class QueueFullError(EnvironmentProblemError):
    """Too many environments wait to be made."""

    code = "environment_queue_full"
    retry = True


class BusyError(EnvironmentProblemError):
    """Commands run in it, so it cannot be put aside now."""

    code = "environment_busy"
    retry = True


class StoppingError(EnvironmentProblemError):
    """The server stops. Environments of live programs stay as they are."""

    code = "environments_stopping"
    retry = True


class UnreachableError(EnvironmentProblemError):
    """Where it lives cannot be reached at the moment, so nothing is known of it."""

    code = "environment_unreachable"
    retry = True
