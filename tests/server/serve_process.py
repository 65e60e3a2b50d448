"""Runs a server as a process of its own: ``python serve_process.py '{"backends": [...], ...}'``."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from thunderagent_core.config import ServerConfig
from thunderagent_core.server.serve import ServeError, serve


def main() -> int:
    settings = json.loads(sys.argv[1])
    settings["backends"] = tuple(settings["backends"])
    if settings.get("trace"):
        settings["trace"] = Path(settings["trace"])
    try:
        serve(ServerConfig(**settings), announce=announce)
    except ServeError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    return 0


def announce(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
