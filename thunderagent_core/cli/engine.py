"""``thunderagent engine``: the simulated engine."""

from __future__ import annotations

from dataclasses import fields
from typing import TYPE_CHECKING, Any, get_type_hints

from thunderagent_core.cli.failure import USAGE, failing_on
from thunderagent_core.cli.options import plain_option, taking
from thunderagent_core.engines.simulated.settings import EngineSettings

if TYPE_CHECKING:
    import inspect

    import typer

_HELP = """Run a simulated engine: vLLM's routes, prefix cache and timing, without a model or a GPU.

It says in every answer that it is simulated. docs/simulated-engine.md tells what is modelled.

Examples:

  thunderagent engine --port 8000

  thunderagent engine --num-blocks 513 --block-tokens 32 --speed 8

  thunderagent engine --script replies.toml --kv-events-endpoint 'tcp://*:5557'
"""


def add_to(app: typer.Typer) -> None:
    """Add the command."""
    app.command("engine", help=_HELP)(taking(_parameters())(_engine))


def _parameters() -> list[inspect.Parameter]:
    kinds, texts = get_type_hints(EngineSettings), EngineSettings.describe()
    return [plain_option(f.name, kinds[f.name], f.default, texts[f.name]) for f in fields(EngineSettings)]


def _engine(**values: Any) -> None:
    import zmq  # noqa: PLC0415 - loaded by this command alone

    from thunderagent_core.engines.simulated.engine import run  # noqa: PLC0415 - loaded by this command alone

    with failing_on(ValueError, OSError, zmq.ZMQError, status=USAGE):
        run(EngineSettings(**values))
