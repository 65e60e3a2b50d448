"""Stands in for vLLM's interpreter: serves ``/health``, has a child, and shares memory, as vLLM does.

Run with vLLM's arguments. ``--ignore-sigterm`` makes it deaf, ``--never-ready`` silent, ``--fail`` makes it end.
``--held N`` makes it say N times that blocks are held, where it is asked to empty its prefix cache.
"""

from __future__ import annotations

import json
import mmap
import os
import signal
import subprocess
import sys
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path


class Server(HTTPServer):
    held = int(sys.argv[sys.argv.index("--held") + 1]) if "--held" in sys.argv else 0


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        self.send_response(503 if "--never-ready" in sys.argv else 200)
        self.end_headers()

    def do_POST(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(json.dumps({"success": self.server.held == 0}).encode())
        self.server.held = max(0, self.server.held - 1)


def main() -> None:
    if "--fail" in sys.argv:
        sys.exit("the stand-in was told to fail")
    signal.signal(signal.SIGTERM, signal.SIG_IGN if "--ignore-sigterm" in sys.argv else signal.SIG_DFL)
    server = Server(("127.0.0.1", int(sys.argv[sys.argv.index("--port") + 1])), Handler)
    child = subprocess.Popen(["sleep", "1000"])
    segment = Path(f"/dev/shm/psm_stand_in_{os.getpid()}")
    segment.write_bytes(bytes(4096))
    with segment.open("r+b") as file:
        memory = mmap.mmap(file.fileno(), 4096)
    print("pids", os.getpid(), child.pid, segment, flush=True)
    server.serve_forever()
    memory.close()


if __name__ == "__main__":
    main()
