"""Memory that stays flat while models and updates come and go."""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Callable

TRIM_BYTES = 16 << 20
"""After updates of so many bytes, the C library is told to give back what is free."""


class Gaps:
    """The gaps that updates leave in the memory of this process: the C library would keep them."""

    def __init__(self) -> None:
        self._left_bytes = 0

    def left(self, size_bytes: int) -> None:
        """So many bytes are no longer used; now and then all such gaps are given back."""
        self._left_bytes += size_bytes
        if self._left_bytes >= TRIM_BYTES:
            self._left_bytes = 0
            give_back()


def give_back() -> None:
    """Give free memory back to the system."""
    if trim := _malloc_trim():
        trim(0)


@functools.cache
def _malloc_trim() -> Callable[[int], int] | None:
    """The function of glibc; others have none, and need none."""
    found: Callable[[int], int] | None = getattr(ctypes.CDLL(None), "malloc_trim", None)
    return found
