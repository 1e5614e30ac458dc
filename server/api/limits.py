"""How often somebody may ask: a bucket of allowances each, filled again over time."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from server.api.errors import TooOftenError

MOST_BUCKETS = 10_000
"""Askers that are remembered; those who have not asked for longest are forgotten first."""


class Limit:
    """So many times a minute, in any pattern.

    Args:
        per_minute: How often; as many at once after a pause.
        now: The clock, for tests.
    """

    def __init__(self, per_minute: float, *, now: Callable[[], float] = time.monotonic) -> None:
        self._burst, self._per_s, self._now = max(1.0, per_minute), per_minute / 60, now
        self._buckets: dict[str, tuple[float, float]] = {}
        self._lock = threading.Lock()

    def check(self, who: str, *, what: str) -> None:
        """Count one time, or refuse it.

        Raises:
            TooOftenError: With when to ask again.
        """
        with self._lock:
            left = self._left(who)
            if left < 1:
                raise TooOftenError(f"{what} too often", again_after_s=(1 - left) / self._per_s)
            self._put(who, left - 1)

    def check_only(self, who: str, *, what: str) -> None:
        """Refuse who has no times left, without counting one.

        Raises:
            TooOftenError: With when to ask again.
        """
        with self._lock:
            left = self._left(who)
        if left < 1:
            raise TooOftenError(f"{what} too often", again_after_s=(1 - left) / self._per_s)

    def count(self, who: str) -> None:
        """Count one time without refusing it."""
        with self._lock:
            self._put(who, max(0.0, self._left(who) - 1))

    def _left(self, who: str) -> float:
        left, at_s = self._buckets.get(who, (self._burst, self._now()))
        return min(self._burst, left + (self._now() - at_s) * self._per_s)

    def _put(self, who: str, left: float) -> None:
        self._buckets.pop(who, None)
        self._buckets[who] = (left, self._now())
        while len(self._buckets) > MOST_BUCKETS:
            del self._buckets[next(iter(self._buckets))]
