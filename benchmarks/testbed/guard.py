"""Keep one engine from outliving whoever started it. Run as a script by ``RealVllm``; standard library only.

Usage: ``python guard.py CPUS STOP_S COMMAND…`` with a pipe as standard input. ``CPUS`` are numbers joined by commas,
or empty for no limit; ``STOP_S`` is how many seconds the engine has to stop when it is asked to. The first line of
standard output is the engine's process id. The guard then waits for

* the byte ``r`` on the pipe: the engine is ready, so note what it shares (after a crash nobody could tell any more) and
  answer with a line,
* the byte ``k``: kill the engine at once,
* the end of the pipe, because its owner closed it or died, however suddenly: stop the engine in an orderly way,
* the end of the engine itself,

and in the end leaves no process and no shared memory of the engine behind. Killing vLLM's API server alone
would: its engine core and its worker live on, and each kill leaves 400 MB of shared memory segments.
"""

from __future__ import annotations

import ctypes
import os
import select
import signal
import sys
from contextlib import suppress
from pathlib import Path

SHARED_MEMORY = "/dev/shm/"  # noqa: S108 - where Linux shows named segments; nothing is created there
_PR_SET_CHILD_SUBREAPER = 36  # linux/prctl.h


def main(arguments: list[str]) -> int:
    """Start the engine, wait for one of the three ends, clean up, and return the engine's exit status."""
    cpus, stop_s, *command = arguments
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # a Ctrl-C is for our owner, whose end we see
    # Orphans of the engine become our children, so that we can wait for them even where no init does.
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    if cpus:
        os.sched_setaffinity(0, {int(cpu) for cpu in cpus.split(",")})
    engine = _start(command)
    print(engine, flush=True)
    end, segments = _wait_for_an_end(engine)
    if end == "stop":
        _ask_to_stop(engine, float(stop_s))
    status = _kill_all(engine)
    for segment in segments:
        segment.unlink(missing_ok=True)
    return status


def _wait_for_an_end(engine: int) -> tuple[str, set[Path]]:
    """Return ``kill``, ``stop`` or ``ended``, and the shared memory that the engine had."""
    ended = os.pidfd_open(engine)
    segments: set[Path] = set()
    words = {b"r": "ready", b"k": "kill", b"": "stop"}
    end = "ready"
    while end == "ready":
        ready, _, _ = select.select([0, ended], [], [])
        segments |= _shared_memory(engine)
        end = "ended" if ended in ready else words[os.read(0, 1)]
        if end == "ready":
            print("noted", flush=True)
    os.close(ended)
    return end, segments


def _start(command: list[str]) -> int:
    """Start the engine as the leader of a group of its own, its output going where our errors go."""
    return os.posix_spawn(
        command[0],
        command,
        os.environ,
        setsid=True,
        setsigdef=[signal.SIGINT, signal.SIGHUP],
        file_actions=[(os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0), (os.POSIX_SPAWN_DUP2, 2, 1)],
    )


def _ask_to_stop(engine: int, stop_s: float) -> None:
    """Ask the API server alone: it takes the others down, and frees what they share."""
    os.kill(engine, signal.SIGTERM)
    ended = os.pidfd_open(engine)
    select.select([ended], [], [], stop_s)
    os.close(ended)


def _kill_all(engine: int) -> int:
    """Kill what is left of the engine's group, wait for all of it, and return the engine's exit status.

    That is 128 and the signal's number where a signal ended it, as shells have it. The dead engine is
    not waited for before this: until then its process id, and so its group's, is taken.
    """
    os.killpg(engine, signal.SIGKILL)
    status = 0
    while True:
        try:
            member, its_status = os.waitpid(-engine, 0)
        except ChildProcessError:
            break
        status = its_status if member == engine else status
    code = os.waitstatus_to_exitcode(status)
    return code if code >= 0 else 128 - code


def _shared_memory(group: int) -> set[Path]:
    """Return the named segments of the group's processes: mapped by them, or named after them.

    An orderly stop frees some of them, depending on which process of the engine is quicker to end.
    """
    by_inode: dict[str, Path] = {}
    for path in Path(SHARED_MEMORY).iterdir():
        with suppress(OSError):  # it was freed while we looked
            by_inode[str(path.stat().st_ino)] = path
    found: set[Path] = set()
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if os.getpgid(int(process.name)) != group:
                continue
            lines = (process / "maps").read_text().splitlines()
        except OSError:
            continue  # the process ended while we looked
        # By inode, because semaphores are mapped under a name that they had only while they were made.
        mapped = (line.split()[4] for line in lines if SHARED_MEMORY in line)
        found |= {by_inode[inode] for inode in mapped if inode in by_inode}
        found.add(Path(f"{SHARED_MEMORY}__KMP_REGISTERED_LIB_{process.name}_0"))
    return found


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
