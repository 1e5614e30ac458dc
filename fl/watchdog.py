"""The process that ends a group of processes when their owner is gone: standard library only, to start fast.

Started by ``fl.processes.Group`` as ``python -I -S watchdog.py GRACE_S``, it leads the process group that
all children join, and reads its standard input. Its owner writes paths there, each ended by a NUL byte, and
never closes it: the end of the file means that the owner ended, in whatever way. Then the paths are
removed, everybody in the group is asked to end (SIGTERM), and who is still there after the grace time is
killed.

Processes are found through ``/proc``, so this is for Linux. A process that leaves the group (``setsid``) is
not found.
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
import time

TICK_S = 0.05


def members(group: int) -> list[int]:
    """The living processes of a process group, this one left out."""
    found = []
    for name in os.listdir("/proc"):
        if not name.isdigit() or int(name) == os.getpid():
            continue
        try:
            with open(f"/proc/{name}/stat", "rb") as file:
                # pid (name) state parent group ...: the name may hold anything, also brackets.
                state, _, process_group = file.read().rpartition(b") ")[2].split()[:3]
        except OSError:
            continue  # it ended while we looked
        if int(process_group) == group and state not in b"ZX":
            found.append(int(name))
    return found


def end(group: int, grace_s: float) -> None:
    """Ask everybody in the group to end, then kill who remains; return when nobody is left."""
    _signal(members(group), signal.SIGTERM)
    deadline = time.monotonic() + grace_s
    while (remaining := members(group)) and time.monotonic() < deadline:
        time.sleep(TICK_S)
    while remaining:
        _signal(remaining, signal.SIGKILL)
        time.sleep(TICK_S)
        remaining = members(group)


def erase(path: str) -> None:
    """Remove a file or a directory with all that is in it; nothing happens if it is not there."""
    if os.path.isdir(path) and not os.path.islink(path):
        shutil.rmtree(path, ignore_errors=True)
    else:
        try:
            os.unlink(path)
        except OSError:
            return


def _signal(processes: list[int], number: signal.Signals) -> None:
    for process in processes:
        try:
            os.kill(process, number)
        except ProcessLookupError:
            continue


def main() -> None:
    """Wait for the owner to end, then clear up."""
    # Signals meant for the whole group do not stop the one who clears up after it.
    for ignored in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(ignored, signal.SIG_IGN)
    grace_s = float(sys.argv[1])
    said = b""
    while received := os.read(0, 65536):
        said += received
    # Removed at once, because keys must not outlive their use, and again at the end, because a process may
    # have written there while it was ending.
    paths = [os.fsdecode(path) for path in said.split(b"\0")[:-1]]
    for path in paths:
        erase(path)
    end(os.getpgrp(), grace_s)
    for path in paths:
        erase(path)


if __name__ == "__main__":
    main()
