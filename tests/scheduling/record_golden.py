"""Write the golden traces anew: ``python -m tests.scheduling.record_golden``."""

from __future__ import annotations

from pathlib import Path

from .scenarios import SCENARIOS

GOLDEN = Path(__file__).parent / "golden"


def text_of(name: str) -> str:
    """Run a scenario and return its trace."""
    shell = SCENARIOS[name]()
    shell.finish()
    return "\n".join(shell.trace) + "\n"


def main() -> None:
    """Record every scenario."""
    GOLDEN.mkdir(exist_ok=True)
    for name in SCENARIOS:
        (GOLDEN / f"{name}.jsonl").write_text(text_of(name))


if __name__ == "__main__":
    main()
