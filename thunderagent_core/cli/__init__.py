"""The command line. Each command imports what it needs when it runs, so that ``--help`` stays quick."""

from __future__ import annotations

from typing import Annotated

import typer

from thunderagent_core import __version__
from thunderagent_core.cli import demo, engine, environments, inspect, replay, serve

__all__ = ["build_app"]


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"thunderagent {__version__}")
        raise typer.Exit


def _main(
    version: Annotated[
        bool, typer.Option("--version", help="Show the version and exit.", callback=_version, is_eager=True)
    ] = False,
) -> None:
    """Schedule agents, not requests: a program-aware server between agent frameworks and LLM engines.

    Start with [bold]thunderagent demo[/], which needs no GPU, or put the server before an engine with
    [bold]thunderagent serve --backend http://127.0.0.1:8000[/].
    """


def build_app() -> typer.Typer:
    """Return the command line with all commands."""
    built = typer.Typer(
        no_args_is_help=True,
        rich_markup_mode="rich",
        pretty_exceptions_show_locals=False,  # they may hold keys
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    built.callback()(_main)
    for module in (serve, inspect, environments, replay, engine, demo):
        module.add_to(built)
    return built
