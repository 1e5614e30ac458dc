"""How a sweep looks in the terminal while it runs: one bar for all runs, or a line now and then for a log."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING

from fl import console
from simulations.commands.crew import Failed, News
from simulations.commands.progress import bars
from simulations.run import Progress

if TYPE_CHECKING:
    from rich.progress import Progress as Bars

    from simulations.outcome import Outcome

LINE_EVERY_S = 10.0
"""How often a log gets a line, beside one for each run that ends."""


@contextlib.contextmanager
def showing(rounds: Mapping[str, int], *, quiet: bool) -> Iterator[Callable[[str, News], None]]:
    """What is told of the runs, in the form for whoever reads it."""
    if quiet or not rounds:
        yield _Show(rounds)
    elif console.err.is_terminal:
        with bars() as drawn:
            yield _Bar(rounds, drawn)
    else:
        yield _Lines(rounds)


class _Show:
    """Counts, and is silent.

    Args:
        rounds: Of each run.
    """

    def __init__(self, rounds: Mapping[str, int]) -> None:
        self.rounds, self._done, self._ended = rounds, dict.fromkeys(rounds, 0), 0
        self._before, self._began_s = 0, time.monotonic()

    def __call__(self, name: str, news: News) -> None:
        is_first = not self._done[name]
        self._done[name] = news.round if isinstance(news, Progress) else self.rounds[name]
        if isinstance(news, Progress):
            self._before += news.round - 1 if is_first else 0  # of a run that goes on, what was there already
        else:
            self._ended += 1
            self.say(_line(name, news))
        self.draw()

    @property
    def done(self) -> int:
        """Rounds of all runs together."""
        return sum(self._done.values())

    @property
    def total(self) -> int:
        """How many there will be."""
        return sum(self.rounds.values())

    @property
    def facts(self) -> str:
        """How many runs have ended."""
        return f"{self._ended} of {len(self.rounds)} runs"

    @property
    def left_s(self) -> float | None:
        """Seconds that the rest will take at this pace."""
        new = self.done - self._before
        return (self.total - self.done) * (time.monotonic() - self._began_s) / new if new > 0 else None

    def say(self, line: str) -> None:
        """A run has ended."""

    def draw(self) -> None:
        """Something is new."""


class _Bar(_Show):
    """A bar for all runs, and a line above it for each that ended."""

    def __init__(self, rounds: Mapping[str, int], drawn: Bars) -> None:
        super().__init__(rounds)
        self._drawn = drawn
        self._bar = drawn.add_task("sweep", total=self.total, facts=self.facts)

    def say(self, line: str) -> None:
        console.say(line)

    def draw(self) -> None:
        self._drawn.update(self._bar, completed=self.done, facts=self.facts)


class _Lines(_Show):
    """A line for each run that ended, and one now and then."""

    _said_s = time.monotonic()

    def say(self, line: str) -> None:
        console.say(line)

    def draw(self) -> None:
        if time.monotonic() - self._said_s < LINE_EVERY_S or self.done == self.total:
            return
        self._said_s = time.monotonic()
        left = f", {console.human_seconds(self.left_s)} left" if self.left_s is not None else ""
        console.say(f"{self.done} of {self.total} rounds, {self.facts}{left}")


def _line(name: str, ended: Outcome | Failed) -> str:
    if isinstance(ended, Failed):
        return f"{name}: failed: {ended.message}{f' ({ended.hint})' if ended.hint else ''}"
    figures = ended.figures
    shown = [f"{key} {figures[key]:.4g}" for key in ("accuracy", "loss", "simulated_hours") if key in figures]
    return f"{name}: {', '.join(shown) or ended.status}"
