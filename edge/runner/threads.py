"""How many threads compute: one before a fork, because threads don't survive it; as many as asked after it."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping

try:
    import threadpoolctl
except ImportError:  # it comes with scikit-learn; without it NumPy keeps to one thread
    threadpoolctl = None

VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS")


def hold_back() -> dict[str, str]:
    """Have libraries that are loaded from now on start no threads.

    Returns:
        What the environment said before.
    """
    given = {name: os.environ[name] for name in VARIABLES if name in os.environ}
    os.environ.update(dict.fromkeys(VARIABLES, "1"))
    return given


def wanted(given: Mapping[str, str], threads: int | None) -> int:
    """The number of compute threads: as asked, else as the environment says, else one for each core we may use."""
    said = given.get("OMP_NUM_THREADS", "").partition(",")[0]
    return threads or (int(said) if said.isdigit() and int(said) else len(os.sched_getaffinity(0)))


def let_go(given: Mapping[str, str], number: int) -> None:
    """Right after a fork: let the libraries that are loaded, and those to come, compute with this many threads."""
    for name in VARIABLES:
        os.environ.pop(name, None)
    os.environ.update({"OMP_NUM_THREADS": str(number)} | dict(given))
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(number)
    if threadpoolctl is not None:
        threadpoolctl.threadpool_limits(number)
