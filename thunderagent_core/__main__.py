"""``python -m thunderagent_core`` and the console script ``thunderagent``."""

from __future__ import annotations

from thunderagent_core.cli import build_app


def main() -> None:
    """Run the command line and exit with its status."""
    build_app()(prog_name="thunderagent")


if __name__ == "__main__":
    main()
