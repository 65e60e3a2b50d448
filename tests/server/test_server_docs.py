"""docs/http-api.md is true: its examples are run, and its tables name everything that there is."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
from server_tools import soon

import thunderagent_core.server
from thunderagent_core.server.app import _table
from thunderagent_core.server.routes import Routes
from thunderagent_core.server.wire import SCHEDULED_PATHS

ROOT = Path(__file__).parent.parent.parent
PAGE = (ROOT / "docs" / "http-api.md").read_text()
ANYTHING = "…"


def examples() -> list[tuple[str, str]]:
    """Return commands with what they print, in order."""
    found = []
    for block in re.findall(r"```console\n(.*?)```", PAGE, re.DOTALL):
        for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
            lines = part.splitlines()
            end = next(n for n in range(1, len(lines) + 1) if _complete("\n".join(lines[:n])))
            found.append(("\n".join(lines[:end]), "\n".join(lines[end:])))
    return found


def _complete(command: str) -> bool:
    try:
        shlex.split(command)
    except ValueError:
        return False
    return True


def parse_curl(command: str) -> tuple[str, str, dict[str, str], str | None, bool]:
    """Return method, path, headers, body and whether the head is shown."""
    name, *words = shlex.split(command)
    assert name == "curl"
    method, url, headers, body, head = None, "", {}, None, False
    words = iter(words)
    for word in words:
        match word:
            case "-s":
                pass
            case "-si":
                head = True
            case "-X":
                method = next(words)
            case "-H":
                key, _, value = next(words).partition(": ")
                headers[key] = value
            case "-d":
                body = next(words)
            case _:
                url = word
    assert url.startswith("localhost:8300/")
    return method or ("GET" if body is None else "POST"), url.removeprefix("localhost:8300"), headers, body, head


def check_json(shown: Any, actual: Any) -> None:
    """What is shown is there; what is left out may be anything."""
    match shown:
        case dict():
            for key, value in shown.items():
                assert key in actual
                check_json(value, actual[key])
        case list():
            assert len(actual) == len(shown)
            for one, other in zip(shown, actual, strict=True):
                check_json(one, other)
        case str() if ANYTHING in shown:
            check_text(shown, str(actual))
        case _:
            assert actual == shown


def check_text(shown: str, actual: str) -> None:
    pattern = ".*".join(re.escape(part) for part in shown.split(ANYTHING))
    assert re.fullmatch(pattern, actual, re.DOTALL), (shown, actual)


async def test_every_example_is_true(engine, serve):
    run = await serve(engine, growth_reserve_tokens=256)
    assert len(examples()) >= 14
    for command, printed in examples():
        shown = printed
        method, path, headers, body, head = parse_curl(command)
        response = await run.client.request(method, path, headers=headers, content=body)
        if head:
            lines, _, shown = printed.partition("\n\n")
            status, *fields = lines.split("\n")
            assert status == f"HTTP/1.1 {response.status_code} {response.reason_phrase}", command
            for field in fields:
                name, _, value = field.partition(": ")
                assert response.headers[name] == value
        else:
            assert response.status_code in {200, 202}, command
        if shown.startswith("{"):
            check_json(json.loads(shown), response.json())
        else:
            check_text(shown.strip(), response.text.strip())
        await run.idle()
    await soon(lambda: "job-7" not in run.scheduler.programs)


def sources() -> str:
    folder = Path(thunderagent_core.server.__file__).parent
    return "\n".join(path.read_text() for path in sorted(folder.glob("*.py")))


def test_every_error_code_is_in_the_table():
    source = sources()
    codes = set(re.findall(r'code(?:: str)?\s?=\s?"([a-z_]+)"', source))
    codes |= set(re.findall(r'invalid\(\s*f?"[^"]*", [^,()]*, "([a-z_]+)"', source))
    codes |= set(re.findall(r'\d: "([a-z_]+)"', source)) | {"bad_request"}  # the transport's
    codes |= {f"{what}_not_found" for what in re.findall(r'not_found\("([a-z]+)"', source)}
    assert {"invalid_json", "missing_required_parameter", "held_too_long", "program_not_found"} <= codes
    table = PAGE[PAGE.index("## Errors") : PAGE.index("## Passed through")]
    assert codes == set(re.findall(r"`([a-z]+(?:_[a-z]+)+)`", table)) - {"x_should_retry"}


def test_every_route_is_in_the_table():
    table = PAGE[: PAGE.index("## Scheduled")]
    shown = set(re.findall(r"`(?:(?:GET|POST|DELETE) )?(/[^`*]*)`", table))
    ours = {"/" + "/".join(part.replace("*", "{id}") for part in parts) for parts in _table(Routes.__new__(Routes))}
    assert shown == ours | set(SCHEDULED_PATHS) | {"/v1/models"}


@pytest.mark.parametrize(
    ("path", "key", "section"), [("/programs", "programs", "Programs"), ("/backends", "backends", "Backends")]
)
async def test_every_field_is_in_its_table(engine, serve, path, key, section):
    run = await serve(engine)
    await run.chat("p")
    [view] = (await run.get(path))[key]
    start = PAGE.index(f"## {section}\n")
    text = PAGE[start : PAGE.index("\n## ", start)]
    table = "\n".join(line.split("|")[1] for line in text.splitlines() if line.startswith("| `"))
    named = set(re.findall(r"`([a-z_]+)`", table))
    assert set(view) <= named
    events = {"type", "tool_started", "tool_finished", "idle", "resumed"}
    assert named - events <= set(view)


async def test_every_metric_is_in_the_table(engine, serve):
    run = await serve(engine)
    await run.chat("p")
    await soon(lambda: run.server.fleet.engines[engine.id].sample is not None)
    text = (await run.client.get("/metrics")).text
    names = set(re.findall(r"^([a-z_]+)[{ ]", text, re.MULTILINE))
    table = PAGE[PAGE.index("`/metrics`:") : PAGE.index("`/events` sends")]
    shown = set()
    for row in re.findall(r"^\| (`thunderagent.*?) \|", table, re.MULTILINE):
        parts = re.findall(r"`([a-z_]+)", row)
        stem = re.match(r"thunderagent_[a-z]+", parts[0])
        assert stem is not None
        shown |= {stem.group() + part if part.startswith("_") else part for part in parts}
    assert names == shown
