"""The arrows of ``docs/architecture.md`` and the house limits, read from the source with ``ast``."""

from __future__ import annotations

import ast
import sys
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parent.parent
PACKAGE = "thunderagent_core"
CORE = ROOT / PACKAGE

EVERYTHING = frozenset({"*"})
ARROWS: dict[str, frozenset[str]] = {
    "__main__": EVERYTHING,
    "cli": EVERYTHING,
    "client": frozenset(),
    "config": frozenset({"scheduling"}),
    "demo": frozenset({"transport"}),
    "engines": frozenset({"transport"}),
    "environments": frozenset(),
    "scheduling": frozenset(),
    "server": frozenset({"config", "scheduling", "engines", "environments", "transport"}),
    "simulation": frozenset({"scheduling"}),
    "transport": frozenset(),
}
"""Importer to imported, by first name under the package. What stands in no row may not exist."""

IMPURE = frozenset(
    """asyncio concurrent datetime io logging multiprocessing os pathlib queue random secrets selectors signal socket
    subprocess sys tempfile threading time urllib uuid""".split()  # noqa: SIM905 - a list would take a screen
)
"""Standard library that reads a clock, waits, logs, guesses, or touches the world outside the process."""

MAX_FILE_LINES = 300
MAX_FUNCTION_LINES = 50
LIMITED = (PACKAGE, "integrations", "benchmarks", "examples")


def _files(*folders: str) -> list[Path]:
    return [path for folder in folders for path in sorted((ROOT / folder).rglob("*.py"))]


@cache
def _tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def _name(path: Path) -> str:
    return str(path.relative_to(ROOT))


def _unit(path: Path) -> str:
    """Return the first name under the package: a folder, or a single module."""
    return path.relative_to(CORE).parts[0].removesuffix(".py")


def _imports(path: Path) -> Iterator[str]:
    """Yield the full name of every module that a file imports, in whatever block."""
    for node in ast.walk(_tree(path)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            package = path.relative_to(ROOT).with_suffix("").parts[: -node.level] if node.level else ()
            module = ".".join([*package, *([node.module] if node.module else [])])
            yield from (f"{module}.{alias.name}" for alias in node.names) if module == PACKAGE else (module,)


def _ours(path: Path) -> set[str]:
    """Return which units of the package a file imports; its version counts for none."""
    names = {name.split(".")[1] for name in _imports(path) if name.startswith(f"{PACKAGE}.")}
    return {name for name in names if (CORE / name).is_dir() or (CORE / f"{name}.py").is_file()}


def test_imports_follow_the_arrows() -> None:
    wrong = {}
    for path in _files(PACKAGE):
        unit = _unit(path)
        allowed = frozenset() if unit == "__init__" else ARROWS[unit]
        if allowed != EVERYTHING and (extra := _ours(path) - {unit} - allowed):
            wrong[_name(path)] = extra
    assert wrong == {}


def test_integrations_know_the_client_and_nothing_else() -> None:
    assert {_name(path): _ours(path) for path in _files("integrations") if not _ours(path) <= {"client"}} == {}


def test_the_core_needs_the_standard_library_only_and_of_that_only_what_is_pure() -> None:
    files = _files(f"{PACKAGE}/scheduling")
    assert len(files) > 10
    for path in files:
        foreign = {name.split(".")[0] for name in _imports(path)} - {PACKAGE}
        assert foreign <= set(sys.stdlib_module_names), _name(path)
        assert not foreign & IMPURE, f"{_name(path)}: the core reads no clock, waits for nothing, logs nothing"


def test_the_core_waits_for_nothing_and_decides_the_same_in_every_process() -> None:
    waits = (ast.AsyncFunctionDef, ast.Await, ast.AsyncFor, ast.AsyncWith)
    varying = {"print", "open", "input", "id", "hash"}
    for path in _files(f"{PACKAGE}/scheduling"):
        for node in ast.walk(_tree(path)):
            assert not isinstance(node, waits), f"{_name(path)}:{node.lineno}"
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                assert node.func.id not in varying, f"{_name(path)}:{node.lineno}"


def test_importing_a_module_does_nothing() -> None:
    """At the top of a module stand definitions and constants: no bare call, no loop; and nowhere a ``global``."""
    effects = (ast.For, ast.While, ast.With, ast.Delete, ast.AugAssign)
    found = []
    for path in _files(PACKAGE, "integrations"):
        found += [
            f"{_name(path)}:{node.lineno}"
            for node in _tree(path).body
            if isinstance(node, effects) or (isinstance(node, ast.Expr) and not isinstance(node.value, ast.Constant))
        ]
        found += [f"{_name(path)}:{node.lineno}" for node in ast.walk(_tree(path)) if isinstance(node, ast.Global)]
    assert found == []


def test_files_are_short() -> None:
    lengths = {_name(path): len(path.read_text(encoding="utf-8").splitlines()) for path in _files(*LIMITED)}
    assert {name: lines for name, lines in lengths.items() if lines > MAX_FILE_LINES} == {}


def test_functions_are_short() -> None:
    long = {}
    for path in _files(*LIMITED):
        for node in ast.walk(_tree(path)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.end_lineno is not None:
                lines = node.end_lineno - node.lineno + 1
                if lines > MAX_FUNCTION_LINES:
                    long[f"{_name(path)}: {node.name}"] = lines
    assert long == {}


def test_no_file_is_a_drawer_for_everything() -> None:
    named = {"utils.py", "util.py", "helpers.py", "common.py", "misc.py"}
    assert [_name(path) for path in _files(*LIMITED, "tests") if path.name in named] == []


def test_no_test_may_be_passed_over() -> None:
    forbidden = {"skip", "skipif", "importorskip", "xfail", "skipTest", "skipUnless", "skipIf", "SkipTest"}
    used = []
    for path in _files("tests"):
        for node in ast.walk(_tree(path)):
            names = {node.attr} if isinstance(node, ast.Attribute) else set()
            if isinstance(node, ast.ImportFrom):
                names = {alias.name for alias in node.names}
            used += [f"{_name(path)}: {name}" for name in names & forbidden]
    assert used == []


def test_the_arrows_are_those_of_the_documentation() -> None:
    """The picture in the documentation names every part that there is."""
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    parts = {path.name for path in CORE.iterdir() if path.is_dir() and list(path.rglob("*.py"))}
    assert {part for part in parts if f"{part}/" not in page} == set()
    assert parts <= set(ARROWS)


# The checks themselves must be able to fail


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("import thunderagent_core.server.app", {"server"}),
        ("from thunderagent_core.server import app", {"server"}),
        ("from thunderagent_core import server, __version__", {"server"}),
        ("def f():\n    from thunderagent_core.engines import base", {"engines"}),
        ("from ..transport import client", {"transport"}),
        ("from . import policies", {"scheduling"}),
        ("import json", set()),
    ],
)
def test_an_import_is_seen_however_it_is_written(monkeypatch: pytest.MonkeyPatch, source: str, found: set[str]) -> None:
    monkeypatch.setitem(globals(), "_tree", lambda _: ast.parse(source))
    assert _ours(CORE / "scheduling" / "somewhere.py") == found
