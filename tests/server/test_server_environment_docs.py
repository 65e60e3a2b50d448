"""docs/environments.md is true: its tables name every field, error, route and metric of tool environments."""

from __future__ import annotations

import re
from pathlib import Path

import msgspec

import thunderagent_core.environments
from thunderagent_core.environments.manager.disk import DiskUse
from thunderagent_core.environments.manager.errors import EnvironmentProblemError
from thunderagent_core.environments.manager.statistics import Snapshot
from thunderagent_core.environments.spec import EnvironmentSpec
from thunderagent_core.environments.states import State
from thunderagent_core.server.environment_bodies import ExecBody
from thunderagent_core.server.environment_door import EnvironmentDoor
from thunderagent_core.server.environment_errors import _STATUS
from thunderagent_core.server.environment_guard import SpecGuard
from thunderagent_core.server.environment_metrics import EnvironmentCollector
from thunderagent_core.server.environment_routes import EnvironmentRoutes

PAGE = (Path(__file__).parents[2] / "docs" / "environments.md").read_text()
SOURCES = Path(thunderagent_core.environments.__file__).parent
UNITS = {"KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}


def section(name: str) -> str:
    start = PAGE.index(f"## {name}\n")
    end = PAGE.find("\n## ", start)
    return PAGE[start:end] if end > 0 else PAGE[start:]


def rows(name: str) -> list[list[str]]:
    """Return the cells of a section's table, without its head."""
    lines = [line for line in section(name).splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


def words(cell: str) -> list[str]:
    return re.findall(r"`([a-z_]+)", cell)


def value_of(text: str) -> object:
    """Return a default as the table writes it."""
    number, _, unit = text.strip("`").partition(" ")
    if unit in UNITS:
        return int(number) * UNITS[unit]
    return {"none": None, "false": False, "the server's": None}.get(text, float(number) if number.isdigit() else number)


def test_every_field_and_its_default():
    shown: dict[str, str] = {}
    for names, default, _ in rows("Declaring"):
        fields = words(names)
        defaults = default.split(", ") if len(fields) > 1 and ", " in default else [default] * len(fields)
        shown |= dict(zip(fields, defaults, strict=True))
    fields = {field.name: field for field in msgspec.structs.fields(EnvironmentSpec)}
    assert set(shown) == set(fields)
    for name, field in fields.items():
        if field.required:
            assert shown[name] == "required"
            continue
        default = field.default if field.default is not msgspec.NODEFAULT else field.default_factory()  # type: ignore[misc]
        assert value_of(shown[name]) == (None if default in ((), {}) else default), name


def test_every_field_of_a_command():
    text = section("Using it")
    assert {field.name for field in msgspec.structs.fields(ExecBody)} <= set(words(text))


def test_every_state():
    life = section("Its life")
    assert set(State) <= set(re.findall(r"[a-z_]+", life[life.index("```") : life.rindex("```")])) | {"lost", "failed"}
    assert set(State) - {"gone", "failed"} <= set(re.findall(r"\*\*([a-z_]+)\*\*", life))


def test_every_route():
    shown = set()
    for cell, _ in rows("Using it"):
        methods = re.findall(r"GET|POST|PUT|DELETE", cell)
        path = re.findall(r"(?:/|…)[^`? ]*", cell)[0]
        paths = [path.replace("…", "/programs/{id}/environments")]
        if "[/{name}]" in path:
            paths = [path.replace("[/{name}]", ""), path.replace("[/{name}]", "/{name}")]
        shown |= {(method, one) for method in methods for one in paths}
    routes = EnvironmentRoutes(None, EnvironmentDoor(None, SpecGuard(())))._table  # type: ignore[arg-type]
    there = {
        (method, path.replace("/programs/*", "/programs/{id}").replace("*", "{name}"))
        for path, handlers in routes.items()
        for method in handlers
    }
    assert shown == there


def test_every_error_and_its_status():
    shown = {code: int(status) for status, codes, _ in rows("Errors") for code in words(codes)}
    codes = {kind.code for kind in EnvironmentProblemError.__subclasses__()}
    for name in ("channel", "channels", "commands", "exec", "files"):
        source = (SOURCES / f"{name}.py").read_text()
        codes |= set(re.findall(r'code="([a-z_]+)"', source)) | set(re.findall(r'\d: \("([a-z_]+)"', source))
    codes |= set(_STATUS) | {"environments_unavailable"}  # the last is for what the ledger raises
    assert shown == {code: _STATUS.get(code, 503) for code in codes}


class _Manager:
    def statistics(self) -> Snapshot:
        names = Snapshot.__dataclass_fields__
        counts = _Counts()
        plain = dict.fromkeys(names, 1)
        held = {"states": {"ready": 1}, "free_disk_bytes": {("process", ""): 1}, "counts": counts}
        return Snapshot(**{**plain, **held, "disk": DiskUse(**dict.fromkeys(DiskUse.__dataclass_fields__, 1))})


class _Counts:
    failed: dict[str, int] = {"setup_failed": 1}  # noqa: RUF012 - never changed

    def __getattr__(self, name: str) -> object:
        return _Times() if name.endswith("_s") else 1


class _Times:
    count = 1
    total_s = 1.0


def test_every_metric():
    there = set()
    for family in EnvironmentCollector(_Manager()).collect():  # type: ignore[arg-type]
        suffix = "_total" if family.type == "counter" else ""
        there.add(family.name.removeprefix("thunderagent_environment_") + suffix)
        for sample in family.samples:
            labels = {",".join(sample.labels)} - {""}
            assert all(f"{{{label}}}" in section("Metrics") for label in labels)
    shown = {word for cell, _ in rows("Metrics") for word in words(cell) if not word.startswith("_")}
    assert shown == there
