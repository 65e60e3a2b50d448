"""How commands fail: one line on standard error and an exit status."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Final, NoReturn

import typer

from thunderagent_core.cli.escaping import escaped

if TYPE_CHECKING:
    from collections.abc import Iterator

FAILED: Final = 1
"""The server said no, cannot be reached, or a comparison found a difference."""

USAGE: Final = 2
"""The command or the configuration makes no sense, so nothing was started."""


def fail(message: str, status: int = FAILED) -> NoReturn:
    """Print one line to standard error and exit."""
    typer.echo(f"thunderagent: {escaped(' '.join(message.split()))}", err=True)
    raise typer.Exit(status)


@contextmanager
def failing_on(*kinds: type[BaseException], status: int = FAILED) -> Iterator[None]:
    """Turn exceptions of these kinds into a line and an exit status."""
    try:
        yield
    except kinds as error:
        fail(str(error) or type(error).__name__, status)
