"""How long the engine waits for replies."""

from __future__ import annotations

from fl.rounds.journal import Clock


class Window:
    """The time in which replies are taken, on the monotonic clock."""

    def __init__(self, clock: Clock, length_s: float) -> None:
        self._clock, self._opened = clock, clock.monotonic()
        self._closes = self._opened + length_s
        self.shortened = False

    @property
    def passed_s(self) -> float:
        """Seconds since it was opened."""
        return round(self._clock.monotonic() - self._opened, 3)

    @property
    def left_s(self) -> float:
        """Seconds until it closes, never below 0."""
        return max(0.0, self._closes - self._clock.monotonic())

    def end_after(self, seconds: float) -> None:
        """Close it so many seconds from the first call, if that is sooner."""
        if not self.shortened and seconds < self.left_s:
            self._closes = self._clock.monotonic() + seconds
            self.shortened = True
