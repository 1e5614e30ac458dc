"""How a simulation looks in the terminal while it runs: a bar for a person, a line now and then for a log."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from fl import console

if TYPE_CHECKING:
    from rich.progress import Progress as Bars

    from simulations.run import Progress

LINE_EVERY_S = 10.0
"""How often a log gets a line; the last round always has one."""


@contextlib.contextmanager
def showing(name: str, *, quiet: bool = False) -> Iterator[Callable[[Progress], None]]:
    """What a simulation is given to tell how far it is.

    Args:
        name: Of the run.
        quiet: Say nothing.
    """
    if quiet:
        yield lambda progress: None
        return
    with _engine_telling():
        yield from _showing(name)


@contextlib.contextmanager
def _engine_telling() -> Iterator[None]:
    """Say what the engine logs: how sites are trained, and why."""
    engine, teller = logging.getLogger("simulations.engine"), _Teller()
    before = engine.level
    engine.addHandler(teller)
    engine.setLevel(logging.INFO)
    try:
        yield
    finally:
        engine.removeHandler(teller)
        engine.setLevel(before)


class _Teller(logging.Handler):
    """Says lines of a log as this program's own."""

    def emit(self, record: logging.LogRecord) -> None:
        console.say(record.getMessage())


def _showing(name: str) -> Iterator[Callable[[Progress], None]]:
    if console.err.is_terminal:
        with bars() as drawn:
            bar = drawn.add_task(name, total=None, facts="")

            def draw(progress: Progress) -> None:
                drawn.update(bar, completed=progress.round, total=progress.rounds, facts=", ".join(_facts(progress)))

            yield draw
    else:
        lines = _Lines()
        yield lines
        lines.end()


def bars() -> Bars:
    """Bars that count rounds, each with a text ``facts`` beside it and the time that is left."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("rounds"),
        TextColumn("{task.fields[facts]}"),
        TextColumn("left:"),
        TimeRemainingColumn(),
        console=console.err,
    )


class _Lines:
    """A line now and then, and one for the last round."""

    def __init__(self) -> None:
        self._said, self._said_s = 0, float("-inf")
        self._last: Progress | None = None

    def __call__(self, progress: Progress) -> None:
        self._last = progress
        if time.monotonic() - self._said_s >= LINE_EVERY_S and progress.round != self._said:
            self._say(progress)

    def end(self) -> None:
        if self._last and self._last.round != self._said:
            self._say(self._last)

    def _say(self, progress: Progress) -> None:
        console.say(f"round {progress.round} of {progress.rounds}: {', '.join(_facts(progress))}")
        self._said, self._said_s = progress.round, time.monotonic()


def _facts(progress: Progress) -> list[str]:
    """Speed, accuracy and simulated time, as far as they are known."""
    facts = [f"{progress.rounds_per_s:.3g} rounds/s"]
    if (accuracy := progress.metrics.get("accuracy")) is not None:
        facts.append(f"accuracy {100 * accuracy:.1f} %")
    elif (loss := progress.metrics.get("loss")) is not None:
        facts.append(f"loss {loss:.4g}")
    if progress.simulated_s:
        facts.append(f"{console.human_seconds(progress.simulated_s)} simulated")
    return facts
