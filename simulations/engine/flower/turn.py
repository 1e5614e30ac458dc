"""A client's turn in a process: global generators and threads as if it had the process for itself.

Apps draw from Python's, NumPy's and torch's global generators (``DataLoader(shuffle=True)`` does), often without a
seed. If a generator went on where the last client left it, a result would depend on who ran before, and so on the
number of workers. Seeding takes microseconds, but keeping what was there takes a hundred: that is done once for many
turns.
"""

from __future__ import annotations

import contextlib
import random
import sys
from collections.abc import Iterator

import numpy as np


def seed_all(seed: int, threads: int | None = None) -> None:
    """Start the global generators from a seed; those of a GPU too, if torch uses one.

    Args:
        seed: Of 63 bits at most.
        threads: For torch on the CPU, whose sums depend on it; ``None`` leaves it.
    """
    random.seed(seed)
    np.random.seed(seed % 2**32)
    if torch := sys.modules.get("torch"):  # an app without torch isn't made to wait for its import
        torch.default_generator.manual_seed(seed)
        if torch.cuda.is_initialized():
            torch.cuda.manual_seed_all(seed)
        if threads:
            torch.set_num_threads(threads)


@contextlib.contextmanager
def put_back() -> Iterator[None]:
    """Have the generators and the threads at the end as they are now; not those of a GPU, which would have to wait."""
    torch = sys.modules.get("torch")
    kept_python, kept_numpy = random.getstate(), np.random.get_state()
    if torch:
        kept_torch, kept_threads = torch.get_rng_state(), torch.get_num_threads()
    try:
        yield
    finally:
        random.setstate(kept_python)
        np.random.set_state(kept_numpy)
        if torch:
            torch.set_rng_state(kept_torch)
            torch.set_num_threads(kept_threads)
