"""Who holds a journal: its lock tells at once whether a ServerApp is alive; Flower needs a minute to notice."""

from __future__ import annotations

import contextlib
import os
import signal
from pathlib import Path

from fl.errors import BusyError
from fl.files import Lock


def is_held(journal: Path) -> bool:
    """Whether a process writes this journal now."""
    try:
        with Lock(journal / "lock"):
            return False
    except BusyError:
        return True


def kill_holder(journal: Path) -> bool:
    """End the process that writes this journal, if it is one of this machine and really has the lock open.

    Returns:
        Whether it was sent SIGKILL.
    """
    lock = (journal / "lock").resolve()
    try:
        pid = int(lock.read_text())
        opened = [entry.readlink() for entry in Path(f"/proc/{pid}/fd").iterdir()]
    except (OSError, ValueError):
        return False
    if pid == os.getpid() or lock not in opened:
        return False
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.kill(pid, signal.SIGKILL)
        return True
    return False
