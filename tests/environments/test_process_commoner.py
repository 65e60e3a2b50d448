"""The process provider without the administrator's rights: the same tests, run by a user who has none."""

from __future__ import annotations

import asyncio
import os
import shutil
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

HERE = Path(__file__).parent
USER = 1_234_567_890
SELECTED = [
    ("test_process_contract.py", "Create or Destroy or Look or Start or Freeze or Spawn"),
    ("test_process_contract.py", "Survey or Snapshot"),
    ("test_process_isolation.py", ""),
    ("test_process_lifecycle.py", "not cancelled_anywhere"),
    ("test_process_limits.py", ""),
    ("test_process_crashes.py", "not at_every_step"),
    ("test_process_snapshots.py", ""),
]


@pytest.fixture
def shared() -> Iterator[Path]:
    """A directory that everybody can use."""
    directory = Path(tempfile.mkdtemp(prefix="thunder-commoner-"))
    directory.chmod(0o777)
    yield directory
    shutil.rmtree(directory)


@pytest.mark.parametrize(("file", "which"), SELECTED)
async def test_all_of_it_without_rights(file: str, which: str, shared: Path) -> None:
    arguments = [str(HERE / file), "-k", which, "--basetemp", str(shared / "base")]
    command = [sys.executable, str(HERE / "process_commoner.py"), str(USER), *arguments]
    if os.geteuid() != 0:  # then all tests run without rights anyway, and nothing more can be given up
        command = [sys.executable, "-m", "pytest", "--collect-only", "-q", *arguments]
    process = await asyncio.create_subprocess_exec(
        *command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT, start_new_session=True
    )
    said, _ = await process.communicate()
    assert process.returncode == 0, said.decode(errors="replace")[-5000:]
