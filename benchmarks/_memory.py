"""How much memory a process holds, as Linux counts it."""

from __future__ import annotations

from pathlib import Path


def resident_bytes(key: str) -> int:
    """What is resident of this process: ``VmRSS`` now, ``VmHWM`` at most so far.

    What getrusage says of a program begins with the memory of the one that started it; this does not.
    """
    status = Path("/proc/self/status").read_text()
    return 1024 * int(status.split(f"{key}:")[1].split()[0])
