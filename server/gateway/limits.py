"""Bounds on what one site may ask: token buckets and a number of calls at once."""

from __future__ import annotations

import dataclasses
import time

from fl.errors import RefusedError
from server.gateway.config import GatewayConfig

LONGEST_DELAY_S = 5.0
"""A call that would have to wait longer than this is refused."""


@dataclasses.dataclass(slots=True)
class Bucket:
    """Permits that grow at a rate, up to a number.

    Example:
        >>> bucket = Bucket(rate_per_s=2.0, burst=1.0, now=0.0)
        >>> bucket.take(now=0.0), bucket.take(now=0.0), bucket.take(now=5.0)
        (0.0, 0.5, 0.0)
    """

    rate_per_s: float
    burst: float
    now: dataclasses.InitVar[float | None] = None
    _level: float = 0.0
    _at: float = 0.0

    def __post_init__(self, now: float | None) -> None:
        self._level, self._at = self.burst, time.monotonic() if now is None else now

    def delay_s(self, *, now: float | None = None) -> float:
        """Seconds until there is a permit; 0 if there is one."""
        now = time.monotonic() if now is None else now
        self._level = min(self.burst, self._level + (now - self._at) * self.rate_per_s)
        self._at = now
        return max(0.0, 1.0 - self._level) / self.rate_per_s

    def take(self, *, now: float | None = None) -> float:
        """Take a permit, one that is still to come if need be.

        Returns:
            Seconds until it is there.
        """
        delay_s = self.delay_s(now=now)
        self._level -= 1.0
        return delay_s

    def give(self) -> None:
        """Give a permit back that was not used."""
        self._level += 1.0


class SiteLimits:
    """What one site may still do; unused ones cost nothing to keep.

    Args:
        config: The bounds.
    """

    def __init__(self, config: GatewayConfig) -> None:
        self._config = config
        self._calls = Bucket(config.calls_per_s, config.calls_burst)
        self._at_once = 0

    def enter(self) -> float:
        """Begin a call; every successful ``enter`` is followed by one ``leave``.

        Returns:
            Seconds to wait before it is answered.

        Raises:
            RefusedError: If the site has too many calls open, or is far too fast.
        """
        if self._at_once >= self._config.calls_at_once:
            raise RefusedError(f"{self._at_once} calls of this site are open, at most that many are")
        delay_s = self._calls.take()
        if delay_s > LONGEST_DELAY_S:
            self._calls.give()
            raise RefusedError(f"this site makes more than {self._config.calls_per_s:g} calls a second")
        self._at_once += 1
        return delay_s

    def leave(self) -> None:
        """End a call."""
        self._at_once -= 1
