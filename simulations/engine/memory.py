"""Memory that stays flat while models and updates come and go."""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Callable

TRIM_BYTES = 16 << 20
"""After updates of so many bytes, the C library is told to give back what is free."""


KEPT_MOST_BYTES = 32 << 20
"""Larger pieces of memory than this, glibc's own limit, come from the system each time."""

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # malloc.h


class Gaps:
    """The gaps that updates leave in the memory of this process: the C library would keep them.

    Args:
        most_bytes: So many may be left before they are given back.
    """

    def __init__(self, most_bytes: int = TRIM_BYTES) -> None:
        self._most_bytes, self._left_bytes = most_bytes, 0

    def left(self, size_bytes: int) -> None:
        """So many bytes are no longer used; now and then all such gaps are given back."""
        self._left_bytes += size_bytes
        if self._left_bytes >= self._most_bytes:
            self._left_bytes = 0
            give_back()


def keep() -> None:
    """Have the C library keep what is free for the next step, until it is told to give it back.

    By default it asks the system for each large tensor anew, and the system fills every page of it with zeros first:
    steps of small convolutions spent a tenth of their time on that.
    """
    if tune := _of_glibc("mallopt"):
        tune(_M_MMAP_THRESHOLD, KEPT_MOST_BYTES)
        tune(_M_TRIM_THRESHOLD, 4 * KEPT_MOST_BYTES)


def give_back() -> None:
    """Give free memory back to the system."""
    if trim := _of_glibc("malloc_trim"):
        trim(0)


@functools.cache
def _of_glibc(name: str) -> Callable[..., int] | None:
    """A function of glibc; other libraries have none of these, and need none."""
    found: Callable[..., int] | None = getattr(ctypes.CDLL(None), name, None)
    return found
