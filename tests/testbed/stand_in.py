"""Stands in for vLLM's interpreter: serves ``/health``, has a child, and shares memory, as vLLM does.

Run with vLLM's arguments. ``--ignore-sigterm`` makes it deaf, ``--never-ready`` silent, ``--fail`` makes it end.
"""

from __future__ import annotations

import mmap
import os
import signal
import subprocess
import sys
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path


class Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(503 if "--never-ready" in sys.argv else 200)
        self.end_headers()

    do_POST = do_GET  # noqa: N815 - http.server's name


def main() -> None:
    if "--fail" in sys.argv:
        sys.exit("the stand-in was told to fail")
    signal.signal(signal.SIGTERM, signal.SIG_IGN if "--ignore-sigterm" in sys.argv else signal.SIG_DFL)
    child = subprocess.Popen(["sleep", "1000"])
    segment = Path(f"/dev/shm/psm_stand_in_{os.getpid()}")  # noqa: S108 - where vLLM's segments are
    segment.write_bytes(bytes(4096))
    with segment.open("r+b") as file:
        memory = mmap.mmap(file.fileno(), 4096)
    server = HTTPServer(("127.0.0.1", int(sys.argv[sys.argv.index("--port") + 1])), Handler)
    print("pids", os.getpid(), child.pid, segment, flush=True)  # noqa: T201 - for the tests
    server.serve_forever()
    memory.close()


if __name__ == "__main__":
    main()
