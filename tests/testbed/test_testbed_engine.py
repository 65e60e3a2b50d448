"""Starting and ending an engine leaves nothing behind, however it ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from benchmarks.testbed import EngineStartError, RealVllm, SetupError

REPOSITORY = Path(__file__).parent.parent.parent


def traces(log: Path) -> tuple[int, int, Path]:
    """What the stand-in said at its last start: its process, its child, its shared memory."""
    line = next(line for line in reversed(log.read_text().splitlines()) if line.startswith("pids"))
    _, pid, child, segment = line.split()
    return int(pid), int(child), Path(segment)


def is_alive(pid: int) -> bool:
    try:
        return "State:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except FileNotFoundError:
        return False


def is_gone(log: Path) -> bool:
    pid, child, segment = traces(log)
    return not (is_alive(pid) or is_alive(child) or segment.exists())


def wait_until(condition) -> None:
    """The test's own time-out is the bound."""
    while not condition():
        time.sleep(0.02)


@pytest.fixture
def engine(layout, tmp_path):
    engine = RealVllm(layout=layout, log=tmp_path / "engine.log", start_timeout_s=60)
    yield engine
    engine.kill()


def test_it_runs_while_in_use(engine):
    with engine:
        pid, child, segment = traces(engine.log)
        assert engine.pid == pid
        assert os.getpgid(child) == pid
        assert segment.exists()
        engine.reset_prefix_cache()
    assert is_gone(engine.log)
    with pytest.raises(RuntimeError, match="not running"):
        _ = engine.pid


def test_killed_at_once(engine):
    engine.start()
    engine.kill()
    assert is_gone(engine.log)
    engine.kill()


def test_restarted_at_the_same_address(engine):
    engine.start()
    first, url = traces(engine.log), engine.url
    engine.restart()
    assert traces(engine.log) != first
    assert engine.url == url
    with pytest.raises(RuntimeError, match="already running"):
        engine.start()


def test_one_that_ends_by_itself_leaves_no_children(engine):
    engine.start()
    os.kill(engine.pid, signal.SIGKILL)
    assert engine.wait() == 128 + signal.SIGKILL
    assert is_gone(engine.log)
    engine.stop()


def test_a_deaf_engine_is_killed(layout, tmp_path):
    settings = {"stop_timeout_s": 0.2, "extra": ("--ignore-sigterm",)}
    with RealVllm(layout=layout, log=tmp_path / "engine.log", **settings) as engine:
        pass
    assert is_gone(engine.log)


@pytest.mark.parametrize("death", [signal.SIGKILL, signal.SIGTERM])
def test_it_does_not_outlive_its_owner(layout, tmp_path, death):
    log = tmp_path / "engine.log"
    owner = (
        "import os\nfrom pathlib import Path\nfrom benchmarks.testbed import Layout, RealVllm\n"
        f"RealVllm(layout=Layout(Path({str(layout.cache)!r})), log=Path({str(log)!r})).start()\n"
        f"os.kill(os.getpid(), {int(death)})\n"
    )
    ended = subprocess.run([sys.executable, "-c", owner], cwd=REPOSITORY, check=False)
    assert ended.returncode == -death
    wait_until(lambda: is_gone(log))


@pytest.mark.parametrize(
    ("extra", "timeout_s", "sentence"),
    [("--fail", 60, "ended with status 1.*told to fail"), ("--never-ready", 1, r"not ready after 1 s.*pids")],
)
def test_one_that_does_not_come_up(layout, tmp_path, extra, timeout_s, sentence):
    engine = RealVllm(layout=layout, log=tmp_path / "engine.log", start_timeout_s=timeout_s, extra=(extra,))
    with pytest.raises(EngineStartError, match=f"(?s){sentence}"):
        engine.start()
    assert extra == "--fail" or is_gone(engine.log)


def test_without_a_testbed(tmp_path, layout):
    (layout.model / "model.safetensors").write_bytes(b"half")
    with pytest.raises(SetupError, match=r"run: python -m benchmarks.testbed setup"):
        RealVllm(layout=layout).start()


def test_confined_to_a_core(layout, tmp_path):
    core = min(os.sched_getaffinity(0))
    with RealVllm(layout=layout, log=tmp_path / "engine.log", cpus=str(core)) as engine:
        assert os.sched_getaffinity(engine.pid) == {core}


def test_served_in_the_foreground(layout):
    command = [sys.executable, "-m", "benchmarks.testbed", "--cache", str(layout.cache), "serve", "--port", "0"]
    with subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as serve:
        assert serve.stdout.readline().startswith("ready: http://127.0.0.1:")
        serve.terminate()
        said = serve.stderr.read()
    assert serve.returncode == 130
    line = next(line for line in said.splitlines() if line.startswith("pids"))
    _, pid, child, segment = line.split()
    assert not is_alive(int(pid))
    assert not is_alive(int(child))
    assert not Path(segment).exists()
