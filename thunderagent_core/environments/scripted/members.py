"""Which processes of this machine belong to a scripted environment: those that carry its mark in their variables."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from pathlib import Path
from typing import Final

VARIABLE: Final = "THUNDER_SCRIPTED"


def members(token: str) -> list[int]:
    """Return the living processes whose variables held this mark when they began."""
    sought = f"{VARIABLE}={token}\0".encode()
    found = []
    for entry in os.scandir("/proc"):
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                if sought in Path(entry.path, "environ").read_bytes():
                    found.append(int(entry.name))
    return found


def signal_members(token: str, number: signal.Signals) -> list[int]:
    """Send all of them a signal; return who they were."""
    found = members(token)
    for process in found:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(process, number)
    return found


async def end_members(token: str) -> None:
    """Kill all of them, and return when they are dead."""
    while signal_members(token, signal.SIGKILL):  # noqa: ASYNC110 - the kernel tells nobody but their parents
        await asyncio.sleep(0.002)


async def stop_members(token: str) -> None:
    """Stop all of them where they are, those included that begin meanwhile."""
    stopped: set[int] = set()
    while not set(found := signal_members(token, signal.SIGSTOP)) <= stopped:
        stopped.update(found)
        await asyncio.sleep(0)
