"""``python -m thunderagent_core.cli.guarded …``: the same command line, ended when standard input is closed.

A parent that holds the other end of the pipe takes its children with it, however it dies.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from typing import Final

from thunderagent_core.__main__ import main

_GRACE_S: Final = 10.0


def _watch_parent() -> None:
    """Wait for the end of standard input, then ask this process to stop, then make it stop."""
    while os.read(sys.stdin.fileno(), 4096):
        pass
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(_GRACE_S)
    os._exit(1)


if __name__ == "__main__":
    threading.Thread(target=_watch_parent, daemon=True).start()
    main()
