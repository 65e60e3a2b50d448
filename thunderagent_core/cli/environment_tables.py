"""Tool environments, for a terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from rich.text import Text

from thunderagent_core.cli.escaping import escaped
from thunderagent_core.cli.tables import console, table

if TYPE_CHECKING:
    from collections.abc import Sequence

    from thunderagent_core.client import EnvironmentView, ReapItem

_MEBIBYTE: Final = 1 << 20

_STYLES: Final = {
    "ready": "green",
    "in_use": "green",
    "preparing": "cyan",
    "requested": "cyan",
    "paused": "yellow",
    "snapshotted": "yellow",
    "reclaiming": "blue",
    "failed": "red",
    "lost": "red",
    "quarantined": "magenta",
}


def show_environments(views: Sequence[EnvironmentView]) -> None:
    """Print tool environments."""
    out = console()
    if views:
        rows = table("program", "name", "state", "provider", "disk", "ports", "age", "why")
        for view in views:
            rows.add_row(*_row(view))
        out.print(rows)
    out.print(f"{len(views)} environment{'' if len(views) == 1 else 's'}")


def show_reaped(items: Sequence[ReapItem]) -> None:
    """Print what is taken back."""
    if not items:
        return
    rows = table("kind", "name", "provider", "due", "why")
    for item in items:
        due = "now" if item.due_in_s <= 0 else f"in {item.due_in_s:.0f} s"
        rows.add_row(*map(_text, (item.kind, item.name, item.provider, due, item.reason)))
    console().print(rows)


def _row(view: EnvironmentView) -> tuple[Text, ...]:
    state = Text(escaped(view.state), style=_STYLES.get(view.state, ""))
    if view.position is not None:
        state.append(f" ({view.position} before it)")
    ports = ", ".join(f"{inside}->{outside}" for inside, outside in view.ports.items()) or "-"
    disk = f"{view.disk_used_bytes / _MEBIBYTE:.1f} MiB"
    cells = (view.provider, disk, ports, f"{view.age_s:.0f} s", view.reason or "-")
    return (_text(view.program_id or "-"), _text(view.name), state, *map(_text, cells))


def _text(text: str) -> Text:
    return Text(escaped(text))
