"""``thunderagent serve``."""

from __future__ import annotations

import inspect
import logging
import os
from dataclasses import fields
from pathlib import Path
from typing import Annotated, Any

import typer

from thunderagent_core.cli.escaping import escaped
from thunderagent_core.cli.failure import USAGE, fail, failing_on
from thunderagent_core.cli.options import setting_option, taking
from thunderagent_core.config import ConfigError, ServerConfig, load_config
from thunderagent_core.config.model import settings

_EXAMPLES = """Run the server in front of one or more engines.

Later sources win: defaults, the file of --config, variables THUNDERAGENT_<NAME> (THUNDERAGENT_MAX_WAIT_S for
--max-wait-s; commas between list items), options. docs/configuration.md says what each setting does.

Examples:

  thunderagent serve --backend http://127.0.0.1:8000

  thunderagent serve --backend http://gpu1:8000 --backend http://gpu2:8000 --policy paper --port 8300

  thunderagent serve --config thunderagent.toml --trace run.jsonl
"""


def add_to(app: typer.Typer) -> None:
    """Add the command."""
    app.command("serve", help=_EXAMPLES)(taking(_parameters())(_serve))


def _parameters() -> list[inspect.Parameter]:
    config = typer.Option(
        "--config",
        metavar="FILE",
        help="Settings from a .toml or .yaml file.",
        show_default=False,
        rich_help_panel="Server",
    )
    first = inspect.Parameter(
        "config", inspect.Parameter.KEYWORD_ONLY, default=None, annotation=Annotated[Path | None, config]
    )
    defaults = {field.name: field.default for field in fields(ServerConfig)}
    return [first, *(setting_option(name, about, defaults[name]) for name, about in settings().items())]


def _serve(**values: Any) -> None:
    file = values.pop("config")
    options = {name: value for name, value in values.items() if value not in (None, [], ())}
    with failing_on(ConfigError, status=USAGE):
        config = load_config(file=file, environ=os.environ, options=options)
    _log_to_stderr(config.log_level)
    if not config.backends:
        typer.echo("thunderagent: no engine yet; add one with --backend or thunderagent backends add URL", err=True)
    _run(config)


def _run(config: ServerConfig) -> None:
    from thunderagent_core.server.serve import ServeError, serve  # noqa: PLC0415 - loaded by this command alone

    try:
        serve(config, announce=lambda text: typer.echo(escaped(text)))
    except (ConfigError, ServeError) as error:
        fail(str(error), USAGE)


def _log_to_stderr(level: str) -> None:
    logging.basicConfig(level=level.upper(), format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    if level != "debug":
        for name in ("httpx", "httpcore"):  # one line for each poll of each engine
            logging.getLogger(name).setLevel(logging.WARNING)
