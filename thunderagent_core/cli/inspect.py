"""The commands that ask a running server: programs, release, backends, events."""

from __future__ import annotations

from contextlib import contextmanager
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer

from thunderagent_core.cli.escaping import escaped
from thunderagent_core.cli.failure import FAILED, USAGE, fail
from thunderagent_core.cli.options import ApiKey, AsJson, ServerUrl  # noqa: TC001 - Typer evaluates annotations

if TYPE_CHECKING:
    from collections.abc import Iterator

    from thunderagent_core.client import Client

DEFAULT_SERVER = "http://127.0.0.1:8300"


_PROGRAMS = """Show the programs that a server knows, or one of them.

Examples:

  thunderagent programs

  thunderagent programs job-7

  thunderagent programs --json | jq '.programs[] | select(.status == "paused")'
"""

_RELEASE = """End programs: their queued requests are refused and what they hold is given back.

Ending one twice is no error.

Example:

  thunderagent release job-7 job-8
"""

_BACKENDS = """Show the engines of a server, add one, or drain one.

A drained engine gets nothing new and leaves once nothing is in flight there.

Examples:

  thunderagent backends

  thunderagent backends add http://gpu3:8000

  thunderagent backends drain gpu3-8000
"""

_EVENTS = """Follow the scheduler's decisions as they are taken, with their reasons. Ctrl-C ends it.

Example:

  thunderagent events --json | jq 'select(.type == "Pause")'
"""


class _Action(StrEnum):
    ADD = "add"
    DRAIN = "drain"


def add_to(app: typer.Typer) -> None:
    """Add the commands."""
    app.command("programs", help=_PROGRAMS)(programs)
    app.command("release", help=_RELEASE)(release)
    app.command("backends", help=_BACKENDS)(backends)
    app.command("events", help=_EVENTS)(events)


def programs(
    program_id: Annotated[str | None, typer.Argument(metavar="ID", help="Show this one, with its history.")] = None,
    *,
    as_json: AsJson = False,
    server: ServerUrl = DEFAULT_SERVER,
    api_key: ApiKey = None,
) -> None:
    """Show the programs that a server knows, or one of them."""
    from thunderagent_core.cli import tables  # noqa: PLC0415 - loaded by this command alone

    with client_of(server, api_key) as client:
        view = client.programs() if program_id is None else client.get(program_id)
    if as_json:
        print_json(view)
    else:
        tables.show(view)


def release(
    program_ids: Annotated[list[str], typer.Argument(metavar="ID...", help="Programs to end.")],
    *,
    as_json: AsJson = False,
    server: ServerUrl = DEFAULT_SERVER,
    api_key: ApiKey = None,
) -> None:
    """End programs: their queued requests are refused and what they hold is given back."""
    with client_of(server, api_key) as client:
        results = {program_id: _release_one(client, program_id) for program_id in program_ids}
    if as_json:
        print_json([{"program_id": program_id, "result": result} for program_id, result in results.items()])
    else:
        for program_id, result in results.items():
            typer.echo(escaped(f"{program_id}: {result}"))
    if _UNKNOWN in results.values():
        raise typer.Exit(FAILED)


_UNKNOWN = "unknown"


def _release_one(client: Client, program_id: str) -> str:
    from thunderagent_core.client import NotFoundError  # noqa: PLC0415 - loaded by this command alone

    try:
        return "released" if client.release(program_id) else "had ended before"
    except NotFoundError:
        return _UNKNOWN


def backends(
    action: Annotated[_Action | None, typer.Argument(help="Add an engine, or drain and remove one.")] = None,
    target: Annotated[str | None, typer.Argument(metavar="URL|ID", help="URL to add, or id to drain.")] = None,
    *,
    as_json: AsJson = False,
    server: ServerUrl = DEFAULT_SERVER,
    api_key: ApiKey = None,
) -> None:
    """Show the engines of a server, add one, or drain one."""
    if action is not None and target is None:
        fail(f"backends {action} needs {'a URL' if action is _Action.ADD else 'an id'}", USAGE)
    with client_of(server, api_key) as client:
        if action is None or target is None:
            _show_backends(client, as_json=as_json)
        elif action is _Action.ADD:
            added = client.add_backend(target)
            _confirm(added, f"{added.id}: added; it is used from its first answer", as_json=as_json)
        else:
            client.drain_backend(target)
            _confirm({"id": target, "draining": True}, f"{target}: draining", as_json=as_json)


def _show_backends(client: Client, *, as_json: bool) -> None:
    from thunderagent_core.cli import tables  # noqa: PLC0415 - loaded by this command alone

    views = client.backends()
    if as_json:
        print_json({"backends": views})
    else:
        tables.show(views)


def events(
    *,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object on each line.")] = False,
    server: ServerUrl = DEFAULT_SERVER,
    api_key: ApiKey = None,
) -> None:
    """Follow the scheduler's decisions as they are taken, with their reasons. Ctrl-C ends it."""
    from thunderagent_core.cli import tables  # noqa: PLC0415 - loaded by this command alone

    show = print_json if as_json else tables.decision_printer()
    try:
        with client_of(server, api_key) as client, client.events() as decisions:
            for decision in decisions:
                show(decision)
    except KeyboardInterrupt:
        return
    fail("the server has stopped")


@contextmanager
def client_of(server: str, api_key: str | None, *, timeout_s: float | None = None) -> Iterator[Client]:
    """Open a client that asks once; what goes wrong becomes one line. ``timeout_s``: for what may take long."""
    from thunderagent_core.client import (  # noqa: PLC0415 - loaded by these commands alone
        Client,
        RetryPolicy,
        ThunderAgentError,
        UnreachableError,
    )
    from thunderagent_core.client.session import DEFAULT_TIMEOUT  # noqa: PLC0415 - as above

    try:
        client = Client(server, api_key, timeout=timeout_s or DEFAULT_TIMEOUT, retry=RetryPolicy(max_retries=0))
    except ValueError as error:
        fail(f"--server: {error}", USAGE)
    try:
        with client:
            yield client
    except UnreachableError as error:
        fail(f"{error}; start a server with `thunderagent serve`, or name one with --server or THUNDERAGENT_SERVER")
    except ThunderAgentError as error:
        fail(f"{server}: {error}")


def _confirm(content: Any, text: str, *, as_json: bool) -> None:
    if as_json:
        print_json(content)
    else:
        typer.echo(escaped(text))


def print_json(content: Any) -> None:
    """Print JSON in ASCII: whatever a name holds, no terminal takes it for a command."""
    import json  # noqa: PLC0415 - loaded by these commands alone

    import msgspec  # noqa: PLC0415 - as above

    typer.echo(json.dumps(msgspec.to_builtins(content), separators=(",", ":")))
