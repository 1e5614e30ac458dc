"""Figures over seeds, and what a simulation costs, as people read them."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

from fl.report import words
from simulations.report.comparison import Comparison, Line
from simulations.report.reach import Reached
from simulations.report.variants import Stat

Text = Callable[[float | None], str]

MOST_DIGITS = 5
"""After the point; with more, four significant ones are enough."""

WH_J = 3600

UNITS = ("B", "KiB", "MiB", "GiB", "TiB")


def over_seeds(stat: Stat | None, text: Text, *, of: int | None = None) -> str:
    """Mean and standard deviation.

    Args:
        stat: The figure.
        text: A value for people.
        of: How many seeds there are; told where some of them have no such figure.

    Example:
        >>> over_seeds(Stat.of([0.9, 0.92]), partial(words.metric, "accuracy"))
        '91.0 ± 1.4 %'
        >>> over_seeds(Stat.of([0.9]), partial(words.metric, "accuracy"), of=2)
        '90.0 % (1 of 2)'
    """
    if stat is None:
        return words.NOTHING
    mean, std = text(stat.mean), text(stat.std)
    if stat.count > 1 and stat.low != stat.high:
        (number, _, unit), (small, _, same) = mean.partition(" "), std.partition(" ")
        is_one_unit = unit == same and " " not in unit  # 1 min 04 s has two
        if not is_one_unit:
            mean = f"{mean} ± {std}"
        elif float(small):  # else it is too small to be seen
            mean = f"{number} ± {small} {unit}".rstrip()
    return f"{mean} ({stat.count} of {of})" if of is not None and stat.count < of else mean


def of_metric(name: str, stat: Stat | None, *, of: int | None = None) -> str:
    """The same for a metric; what is no share is as exact as its deviation, of which two digits are shown.

    Example:
        >>> of_metric("loss", Stat.of([0.9123, 1.0321]))
        '0.972 ± 0.085'
    """
    text: Text = partial(words.metric, name)
    if stat and stat.std > 0 and not words.is_share(name):
        digits = max(0, 1 - math.floor(math.log10(stat.std)))
        if digits <= MOST_DIGITS:
            text = partial(_fixed, digits)
    return over_seeds(stat, text, of=of)


def of_size(stat: Stat | None, *, of: int | None = None) -> str:
    """The same for bytes; both numbers in the unit of the mean.

    Example:
        >>> of_size(Stat.of([1 << 20, 2 << 20]))
        '1.5 ± 0.7 MiB'
    """
    if stat is None or stat.mean < 1:
        return over_seeds(stat, words.size, of=of)
    power = min(int(math.log(stat.mean, 1024)), len(UNITS) - 1)
    return over_seeds(stat, lambda value: f"{(value or 0) / 1024**power:.{min(power, 1)}f} {UNITS[power]}", of=of)


def of_energy(stat: Stat | None, *, of: int | None = None) -> str:
    """The same for joules.

    Example:
        >>> of_energy(Stat.of([3000.0, 7000.0]))
        '1.4 ± 0.8 Wh'
    """
    if stat is None or stat.mean < WH_J:
        return over_seeds(stat, words.energy, of=of)
    return over_seeds(stat, lambda value: f"{(value or 0) / WH_J:.1f} Wh", of=of)


def number(value: float | None) -> str:
    """A number that may be a mean of whole ones."""
    return words.NOTHING if value is None else f"{value:.0f}" if value == round(value) else f"{value:.1f}"


def target(comparison: Comparison, value: float) -> str:
    """A value whose price is told, in words."""
    text = f"{comparison.metric} {words.metric(str(comparison.metric), value)}"
    if value != comparison.target or comparison.is_given:
        return text
    return f"{text}, the best that all runs reached" if len(comparison.trials) > 1 else f"{text}, its best"


def prices(reached: Reached | None, *, of: int) -> tuple[str, str, str, str]:
    """Rounds, bytes, simulated time and energy until a target; who did not reach it says so."""
    if reached is None or reached.count == 0:
        return ("not reached" if reached else words.NOTHING, *(words.NOTHING,) * 3)
    return (
        over_seeds(reached.rounds, number, of=of),
        of_size(reached.size_bytes),
        over_seeds(reached.at_s, words.seconds),
        of_energy(reached.energy_j),
    )


def sites_behind(line: Line) -> str:
    """How many sites the worst tenth is taken of."""
    counts = sorted({fair.num_sites for fair in line.fairness.values()})
    if not counts:
        return words.NOTHING
    return words.count(counts[0]) if len(counts) == 1 else f"{words.count(counts[0])}–{words.count(counts[-1])}"


def _fixed(digits: int, value: float | None) -> str:
    return words.NOTHING if value is None else f"{value:.{digits}f}"
