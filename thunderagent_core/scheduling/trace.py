"""Events and decisions to and from JSON lines, and the replay of a recorded trace.

The first line is a header ``{"trace": 1, "policy": …, "settings": {…}}``; each further line is one call of
``handle``: ``{"now": seconds, "event": {"type": …, …}, "decisions": [{"type": …, …}, …]}``.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Any, get_args

from thunderagent_core.scheduling.decisions import Decision, Reason
from thunderagent_core.scheduling.events import Event, Outcome
from thunderagent_core.scheduling.policies import make_policy
from thunderagent_core.scheduling.scheduler import Scheduler
from thunderagent_core.scheduling.settings import SchedulerSettings

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

TRACE_VERSION = 1


class TraceError(ValueError):
    """A line that is not part of a trace. The text names the line number."""


@dataclass(frozen=True, slots=True)
class Mismatch:
    """A replayed event that led to other decisions than the recorded ones. ``line`` counts from 1."""

    line: int
    recorded: list[Decision]
    replayed: list[Decision]


def header_line(policy: str, settings: SchedulerSettings) -> str:
    """Return the first line of a trace."""
    return json.dumps({"trace": TRACE_VERSION, "policy": policy, "settings": asdict(settings)})


def step_line(now: float, event: Event, decisions: Sequence[Decision]) -> str:
    """Return the line for one call of ``handle``."""
    return json.dumps({"now": now, "event": _plain(event), "decisions": [_plain(d) for d in decisions]})


def replay(lines: Iterable[str]) -> Iterator[Mismatch | None]:
    """Run a recorded trace through a fresh scheduler; yield None for each line that gives the same decisions.

    Raises TraceError for text that is not a trace.
    """
    numbered = ((number, line) for number, line in enumerate(lines, start=1) if line.strip())
    scheduler = _scheduler(*next(numbered, (1, "")))
    for number, line in numbered:
        now, event, recorded = _parse_step(number, line)
        replayed = scheduler.handle(event, now)
        yield None if replayed == recorded else Mismatch(number, recorded, replayed)


def _plain(item: Event | Decision) -> dict[str, Any]:
    return {"type": type(item).__name__, **{f.name: getattr(item, f.name) for f in fields(item)}}


def _scheduler(number: int, line: str) -> Scheduler:
    try:
        header = json.loads(line)
        if header["trace"] != TRACE_VERSION:
            raise TraceError(f"line {number}: trace version {header['trace']}, this program reads {TRACE_VERSION}")
        settings = SchedulerSettings(**header["settings"])
        return Scheduler(make_policy(header["policy"], settings), settings)
    except TraceError:
        raise
    except (ValueError, KeyError, TypeError) as error:
        raise TraceError(f"line {number}: not the header of a trace ({error})") from error


def _parse_step(number: int, line: str) -> tuple[float, Event, list[Decision]]:
    try:
        step = json.loads(line)
        event = _build(step["event"], get_args(Event))
        return float(step["now"]), event, [_build(item, get_args(Decision)) for item in step["decisions"]]
    except (ValueError, KeyError, TypeError) as error:
        raise TraceError(f"line {number}: not a step of a trace ({error})") from error


def _build(item: dict[str, Any], kinds: tuple[type[Any], ...]) -> Any:
    kind = next((kind for kind in kinds if kind.__name__ == item["type"]), None)
    if kind is None:
        raise ValueError(f"unknown type {item['type']!r}")
    values = {name: value for name, value in item.items() if name != "type"}
    if "reason" in values and values["reason"] in set(Reason):
        values["reason"] = Reason(values["reason"])
    if "outcome" in values:
        values["outcome"] = Outcome(values["outcome"])
    if "models" in values:
        values["models"] = tuple(values["models"])
    return kind(**values)
