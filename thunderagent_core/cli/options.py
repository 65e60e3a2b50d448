"""Options of commands that are made from settings classes, so that each option is described in one place."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from thunderagent_core.config.declaring import About

_F = TypeVar("_F", bound="Callable[..., Any]")

ServerUrl = Annotated[
    str,
    typer.Option("--server", envvar="THUNDERAGENT_SERVER", metavar="URL", help="Root URL of the ThunderAgent server."),
]
ApiKey = Annotated[
    str | None,
    typer.Option(
        "--api-key",
        envvar="THUNDERAGENT_API_KEY",
        metavar="KEY",
        show_default=False,
        help="Key, where the server asks for one.",
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]


def taking(parameters: Iterable[inspect.Parameter]) -> Callable[[_F], _F]:
    """Make Typer see these parameters in place of a function's ``**values``."""

    def decorate(function: _F) -> _F:
        vars(function)["__signature__"] = inspect.Signature(list(parameters))  # where inspect looks first
        return function

    return decorate


def setting_option(name: str, about: About, default: Any) -> inspect.Parameter:
    """Return the option for one setting of the server. Its value is text, which the configuration will read.

    So a wrong value is reported in the same words wherever it comes from.
    """
    kind: Any = list[str] | None if isinstance(default, tuple) else str | None
    option = typer.Option(
        about.flag,
        help=f"{about.text}{_default_text(default)}",
        metavar=about.rule.metavar,
        rich_help_panel=about.panel,
        show_default=False,
    )
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=Annotated[kind, option])


def plain_option(name: str, kind: Any, default: Any, text: str) -> inspect.Parameter:
    """Return an option that Typer reads by itself."""
    option = typer.Option("--" + name.replace("_", "-"), help=text, show_default=default is not None)
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=Annotated[kind, option])


def _default_text(default: Any) -> str:
    match default:
        case None:
            return ""
        case tuple():
            return " May be repeated."
        case bool():
            return f" Default: {str(default).lower()}."
        case float():
            return f" Default: {default:g}."
        case _:
            return f" Default: {default}."
