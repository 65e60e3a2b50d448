"""The commands about tool environments of a running server: environments, exec, reap."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from thunderagent_core.cli.escaping import escaped
from thunderagent_core.cli.failure import USAGE, fail
from thunderagent_core.cli.inspect import DEFAULT_SERVER, client_of, print_json
from thunderagent_core.cli.options import ApiKey, AsJson, ServerUrl  # noqa: TC001 - Typer evaluates annotations

if TYPE_CHECKING:
    from thunderagent_core.client import ExecOutput, ExecResult

_ENVIRONMENTS = """Show the tool environments of a server, or those of one program.

Examples:

  thunderagent environments

  thunderagent environments job-7

  thunderagent environments --json | jq '.environments[] | select(.state == "lost")'
"""

_EXEC = """Run a command in a tool environment; its output appears here, and its status is this command's.

The environment is made, or brought back, where that is needed. Ctrl-C ends the command.

Examples:

  thunderagent exec job-7 shell -- ls -la

  thunderagent exec job-7 shell --timeout-s 60 -- python -m pytest
"""

_REAP = """Take back now what no live program owns, and show what that is and why.

The server does this by itself, at its start and every while; nothing that a live program owns is ever touched.

Examples:

  thunderagent reap --dry-run

  thunderagent reap
"""

_TIMED_OUT = 124
"""What ``timeout(1)`` ends with."""


def add_to(app: typer.Typer) -> None:
    """Add the commands."""
    app.command("environments", help=_ENVIRONMENTS)(environments)
    app.command("exec", help=_EXEC)(run)
    app.command("reap", help=_REAP)(reap)


def environments(
    program_id: Annotated[str | None, typer.Argument(metavar="PROGRAM", help="Show this program's alone.")] = None,
    *,
    as_json: AsJson = False,
    server: ServerUrl = DEFAULT_SERVER,
    api_key: ApiKey = None,
) -> None:
    """Show the tool environments of a server, or those of one program."""
    from thunderagent_core.cli import environment_tables  # noqa: PLC0415 - loaded by this command alone

    with client_of(server, api_key) as client:
        views = client.environments(program_id)
    if as_json:
        print_json({"environments": views})
    else:
        environment_tables.show_environments(views)


def run(
    program_id: Annotated[str, typer.Argument(metavar="PROGRAM", help="The program's id.")],
    name: Annotated[str, typer.Argument(metavar="NAME", help="What the program calls the environment.")],
    command: Annotated[list[str], typer.Argument(metavar="COMMAND...", help="Program and arguments, after --.")],
    *,
    workdir: Annotated[
        str | None, typer.Option(help="Directory to run in; by default the environment's own.", show_default=False)
    ] = None,
    timeout_s: Annotated[
        float | None, typer.Option(min=0, help="End it after so many seconds.", show_default=False)
    ] = None,
    server: ServerUrl = DEFAULT_SERVER,
    api_key: ApiKey = None,
) -> None:
    """Run a command in a tool environment; its output appears here, and its status is this command's."""
    from thunderagent_core.client import ExecResult  # noqa: PLC0415 - loaded by this command alone

    if timeout_s == 0:
        fail("--timeout-s must be above 0", USAGE)
    try:
        with client_of(server, api_key) as client:
            environment = client.program(program_id).environment(name)
            for piece in environment.stream(command, workdir=workdir, timeout_s=timeout_s):
                if isinstance(piece, ExecResult):
                    _end(piece)
                _pass_on(piece)
    except KeyboardInterrupt:
        raise typer.Exit(130) from None


def _pass_on(piece: ExecOutput | ExecResult) -> None:
    """Write a command's bytes as they are: whoever runs it asked for them."""
    from thunderagent_core.client import ExecOutput  # noqa: PLC0415 - loaded by this command alone

    if isinstance(piece, ExecOutput):
        stream = sys.stderr if piece.stream == "stderr" else sys.stdout
        stream.buffer.write(piece.data)
        stream.flush()


def _end(result: ExecResult) -> None:
    if result.timed_out:
        typer.echo("thunderagent: its time was up", err=True)
    raise typer.Exit(_TIMED_OUT if result.timed_out else result.exit_code)


def reap(
    *,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show what would be taken back.")] = False,
    as_json: AsJson = False,
    server: ServerUrl = DEFAULT_SERVER,
    api_key: ApiKey = None,
) -> None:
    """Take back now what no live program owns, and show what that is and why."""
    from thunderagent_core.cli import environment_tables  # noqa: PLC0415 - loaded by this command alone

    with client_of(server, api_key) as client:
        items = client.reap(dry_run=dry_run)
    if as_json:
        print_json({"dry_run": dry_run, "items": items})
        return
    environment_tables.show_reaped(items)
    what = "would be" if dry_run else "is being"
    typer.echo(escaped(f"{len(items)} {'thing' if len(items) == 1 else 'things'} that {what} taken back"))
