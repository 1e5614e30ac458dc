"""Seeds: every random choice of a run hangs on the run's one seed and on what it is for.

``derive(seed, "cohort", 3)`` is the same number in every process and on every machine, and independent (as far as
SHA-256 goes) of ``derive(seed, "cohort", 4)``. Nothing in the project draws from a global generator.
"""

from __future__ import annotations

import hashlib

import numpy as np


def derive(seed: int, *purpose: str | int) -> int:
    """A seed of 63 bits for one purpose.

    Args:
        seed: The run's seed.
        purpose: Words and numbers that name the choice, e.g. ``("cohort", round, attempt)``.

    Example:
        >>> derive(7, "cohort", 1) == derive(7, "cohort", 1)
        True
        >>> derive(7, "cohort", 1) == derive(7, "cohort", 2)
        False
    """
    text = str(seed)
    for part in purpose:
        text += f"\x1f{type(part).__name__}:{part}"
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def generator(seed: int, *purpose: str | int) -> np.random.Generator:
    """A NumPy generator for one purpose."""
    return np.random.default_rng(derive(seed, *purpose))
