"""Find a Python 3.11: vLLM's CPU build has no wheels for others."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.testbed.layout import SetupError

if TYPE_CHECKING:
    from collections.abc import Iterator

WANTED = (3, 11)
_QUESTION = "import sys, venv, ensurepip; print(*sys.version_info[:2])"


def find_python(running: tuple[int, int] | None = None) -> str:
    """Return the path of a Python 3.11 that can make environments: this one, else the PATH's, else pyenv's.

    Args:
        running: version of this interpreter, by default its own account of it.

    Raises:
        SetupError: there is none.
    """
    version = running or sys.version_info[:2]
    for candidate in _candidates(version):
        if _is_wanted(candidate):
            return candidate
    raise SetupError(
        "the CPU build of vLLM needs Python 3.11, and none was found: this interpreter is "
        f"{version[0]}.{version[1]}, python3.11 is not on the PATH, and pyenv has none. "
        "Install it (for instance: pyenv install 3.11) and run the set-up again"
    )


def _candidates(running: tuple[int, int]) -> Iterator[str]:
    if running == WANTED:
        yield sys.executable
    on_path = shutil.which("python3.11")
    if on_path:
        yield on_path
    root = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv")
    for version in sorted(root.glob("versions/3.11*"), reverse=True):
        yield str(version / "bin" / "python3.11")


def _is_wanted(python: str) -> bool:
    """Ask the interpreter itself: pyenv's shims exist even for versions that are not chosen, and then fail."""
    try:
        answer = subprocess.run([python, "-c", _QUESTION], capture_output=True, text=True, timeout=30, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return False
    return answer.returncode == 0 and answer.stdout.split() == [str(part) for part in WANTED]
