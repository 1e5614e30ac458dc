"""The same numbers twice: seeds, threads and algorithms fixed while a site trains, then put back."""

from __future__ import annotations

import contextlib
import random
import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch

# Seeds, thread counts and the choice of algorithms belong to the process. Two trainings at once in one
# process would change them under each other, so the second waits.
_one_at_a_time = threading.RLock()


@contextlib.contextmanager
def repeatable(seed: int, device: torch.device, cpu_threads: int) -> Iterator[None]:
    """Fix everything that a training's result depends on, for as long as the context lasts.

    Global generators (torch's of the CPU and of ``device``, NumPy's, Python's) start from ``seed``. On a CPU
    the number of threads is fixed, and with more than one deterministic algorithms are preferred; an operation that
    has none warns.

    Guarantees:
        On one kind of CPU and one version of torch, the same work gives the same bits. Everything is put back
        at the end, except a random state of an Apple GPU.
    """
    import torch

    on_cpu = device.type == "cpu"
    with _one_at_a_time:
        kept_threads = torch.get_num_threads()
        kept_python, kept_numpy = random.getstate(), np.random.get_state()
        kept_strict = torch.are_deterministic_algorithms_enabled()
        kept_warning = torch.is_deterministic_algorithms_warn_only_enabled()
        own_generator = device.type in ("cuda", "xpu")
        try:
            with torch.random.fork_rng(
                devices=[getattr(torch, device.type).current_device()] if own_generator else [],
                device_type=device.type if own_generator else "cuda",
            ):
                torch.default_generator.manual_seed(seed)
                if not on_cpu:
                    getattr(torch, device.type).manual_seed(seed)
                random.seed(seed)
                np.random.seed(seed % 2**32)
                if on_cpu:
                    torch.set_num_threads(cpu_threads)
                if on_cpu and cpu_threads > 1:  # one thread adds in one order; and asking takes torch a second at first
                    torch.use_deterministic_algorithms(True, warn_only=True)
                yield
        finally:
            random.setstate(kept_python)
            np.random.set_state(kept_numpy)
            if on_cpu:
                torch.set_num_threads(kept_threads)
            if on_cpu and cpu_threads > 1:
                torch.use_deterministic_algorithms(kept_strict, warn_only=kept_warning)
