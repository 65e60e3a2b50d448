"""The file of ``--trace``: whole lines, written a few times a second."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, BinaryIO

if TYPE_CHECKING:
    from pathlib import Path

_LOG = logging.getLogger(__name__)

_FLUSH_S = 0.2
"""A server that is killed loses this many seconds of its trace at most."""

_MAX_LINES = 1000


class TraceFile:
    """Collects lines and writes them together, without a buffer in between that could cut one in two.

    A trace is an aid: where the disk is full it ends, and the server goes on. Raises OSError where the file cannot
    be made; an older one is overwritten.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: BinaryIO | None = path.open("wb", buffering=0)
        self._lines: list[str] = []
        self._timer: asyncio.TimerHandle | None = None

    def write(self, line: str) -> None:
        """Add one line, given without its end."""
        if self._file is None:
            return
        self._lines.append(line)
        if len(self._lines) >= _MAX_LINES:
            self.flush()
        elif self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(_FLUSH_S, self.flush)

    def flush(self) -> None:
        """Write what has been collected."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._file is None or not self._lines:
            return
        rest = memoryview("".join(f"{line}\n" for line in self._lines).encode())
        self._lines.clear()
        try:
            while rest:
                rest = rest[self._file.write(rest) :]
        except OSError as error:
            _LOG.error("the trace %s ends in the middle: %s", self._path, error.strerror)
            self._file.close()
            self._file = None

    def close(self) -> None:
        """Write the rest and close the file."""
        self.flush()
        if self._file is not None:
            self._file.close()
            self._file = None
