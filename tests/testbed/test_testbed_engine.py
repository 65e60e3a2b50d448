"""Starting and ending an engine leaves nothing behind, however it ends."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from benchmarks.testbed import EngineStartError, RealVllm, SetupError, engine, guard

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


def stand_still_until(monkeypatch, condition) -> None:
    """Make the starter's clock stand still until the condition holds; then more time has passed than it waits for."""
    clock = SimpleNamespace(monotonic=lambda: 1e6 if condition() else 0.0, sleep=time.sleep)
    monkeypatch.setattr(engine, "time", clock)


@pytest.fixture
def vllm(layout, tmp_path):
    vllm = RealVllm(layout=layout, log=tmp_path / "engine.log")
    yield vllm
    vllm.kill()


def test_it_runs_while_in_use(vllm):
    with vllm:
        pid, child, segment = traces(vllm.log)
        assert vllm.pid == pid
        assert os.getpgid(child) == pid
        assert segment.exists()
        vllm.reset_prefix_cache()
    assert is_gone(vllm.log)
    with pytest.raises(RuntimeError, match="not running"):
        _ = vllm.pid


def test_killed_at_once(vllm):
    vllm.start()
    vllm.kill()
    assert is_gone(vllm.log)
    vllm.kill()


def test_restarted_at_the_same_address(vllm):
    vllm.start()
    first, url = traces(vllm.log), vllm.url
    vllm.restart()
    assert traces(vllm.log) != first
    assert vllm.url == url
    with pytest.raises(RuntimeError, match="already running"):
        vllm.start()


def test_a_port_that_was_taken_meanwhile_is_replaced(layout, tmp_path, monkeypatch):
    free = engine.free_port
    with socket.create_server(("127.0.0.1", 0)) as taken:
        ports = iter([taken.getsockname()[1]])
        monkeypatch.setattr(engine, "free_port", lambda: next(ports, None) or free())
        with RealVllm(layout=layout, log=tmp_path / "engine.log") as vllm:
            assert vllm.options.port != taken.getsockname()[1]
        assert is_gone(vllm.log)
        chosen = RealVllm(layout=layout, log=tmp_path / "other.log", port=taken.getsockname()[1])
        with pytest.raises(EngineStartError, match="Address already in use"):
            chosen.start()


def test_blocks_that_are_held_for_a_while_are_waited_for(layout, tmp_path, monkeypatch):
    with RealVllm(layout=layout, log=tmp_path / "engine.log", extra=("--held", "2")) as vllm:
        vllm.reset_prefix_cache()
        assert vllm.log.read_text().count("POST /reset_prefix_cache") == 3


def test_blocks_that_are_held_for_ever_are_an_error(layout, tmp_path, monkeypatch):
    with RealVllm(layout=layout, log=tmp_path / "engine.log", extra=("--held", "1000")) as vllm:
        stand_still_until(monkeypatch, lambda: "POST /reset_prefix_cache" in vllm.log.read_text())
        with pytest.raises(RuntimeError, match="it held blocks for 60 s"):
            vllm.reset_prefix_cache()


def test_one_that_ends_by_itself_leaves_no_children(vllm):
    vllm.start()
    os.kill(vllm.pid, signal.SIGKILL)
    assert vllm.wait() == 128 + signal.SIGKILL
    assert is_gone(vllm.log)
    vllm.stop()


def test_a_deaf_engine_is_killed(layout, tmp_path):
    settings = {"stop_timeout_s": 0.2, "extra": ("--ignore-sigterm",)}
    with RealVllm(layout=layout, log=tmp_path / "engine.log", **settings) as vllm:
        pass
    assert is_gone(vllm.log)


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


def test_one_that_ends_before_it_is_ready(layout, tmp_path):
    vllm = RealVllm(layout=layout, log=tmp_path / "engine.log", extra=("--fail",))
    with pytest.raises(EngineStartError, match=r"(?s)ended with status 1.*told to fail"):
        vllm.start()


def test_one_that_does_not_become_ready_in_time(layout, tmp_path, monkeypatch):
    vllm = RealVllm(layout=layout, log=tmp_path / "engine.log", start_timeout_s=1, extra=("--never-ready",))
    stand_still_until(monkeypatch, lambda: "pids" in vllm.log.read_text())
    with pytest.raises(EngineStartError, match=r"(?s)not ready after 1 s.*pids"):
        vllm.start()
    assert is_gone(vllm.log)


def test_segments_that_are_freed_while_the_guard_looks(tmp_path, monkeypatch):
    (tmp_path / "freed").symlink_to(tmp_path / "nothing")
    monkeypatch.setattr(guard, "SHARED_MEMORY", f"{tmp_path}/")
    assert {path.name for path in guard._shared_memory(os.getpgid(0))} >= {f"__KMP_REGISTERED_LIB_{os.getpid()}_0"}


def test_without_a_testbed(tmp_path, layout):
    (layout.model / "model.safetensors").write_bytes(b"half")
    with pytest.raises(SetupError, match=r"run: python -m benchmarks.testbed setup"):
        RealVllm(layout=layout).start()


def test_confined_to_a_core(layout, tmp_path):
    core = min(os.sched_getaffinity(0))
    with RealVllm(layout=layout, log=tmp_path / "engine.log", cpus=str(core)) as vllm:
        assert os.sched_getaffinity(vllm.pid) == {core}


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
