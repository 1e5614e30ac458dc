"""Simulated time: hours pass when nobody has anything to do until then, and cost nothing."""

from __future__ import annotations

import math
import time

from fl.rounds.journal import Clock

POLL_S = 60.0
"""How far an idle simulation looks ahead at a time."""

NEVER_S = 365 * 86_400.0
"""A deadline for runs in real time: what a simulation gives must not hang on how fast this computer is."""


class VirtualTime:
    """Seconds since the run began; they pass only when ``advance`` says so.

    Args:
        now_s: Where a run that is resumed goes on.
    """

    def __init__(self, now_s: float = 0.0) -> None:
        self.now_s = now_s

    def advance(self, to_s: float) -> None:
        """Go on to a moment; one that has passed changes nothing."""
        assert math.isfinite(to_s)
        self.now_s = max(self.now_s, to_s)

    def clock(self) -> Clock:
        """This time as a journal's clock; the journal's dates stay real."""
        return Clock(
            monotonic=lambda: self.now_s,
            wall=time.time,
            sleep=lambda seconds: self.advance(self.now_s + seconds),
            poll_s=POLL_S,
            origin_s=0.0,
        )
