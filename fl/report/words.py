"""Numbers as people read them, each with its unit."""

from __future__ import annotations

import datetime
import math
from collections.abc import Sequence

from fl.console import human_bytes, human_seconds
from fl.report.facts import Place

NOTHING = "–"
"""Where a journal does not say."""

PLACES: dict[Place, str] = {
    "training": "training at the sites",
    "sites": "evaluation at the sites",
    "centre": "evaluation at the centre",
}
"""Where metrics were measured, in the order in which they are shown."""


def seconds(value: float | None) -> str:
    """A duration.

    Example:
        >>> seconds(0.0123), seconds(2.34), seconds(3700)
        ('12 ms', '2.3 s', '1 h 01 min')
    """
    if value is None:
        return NOTHING
    return f"{1000 * value:.0f} ms" if value < 0.1 else human_seconds(value)


def size(value: float | None) -> str:
    """A number of bytes."""
    return NOTHING if value is None else human_bytes(value)


def count(value: float | None) -> str:
    """A number of things, in groups of three digits."""
    return NOTHING if value is None else f"{value:,.0f}".replace(",", "\u202f")


def energy(value: float | None) -> str:
    """Joules, and watt-hours when there are many.

    Example:
        >>> energy(12.3), energy(7200)
        ('12 J', '2.0 Wh')
    """
    if value is None:
        return NOTHING
    return f"{value:.0f} J" if value < 3600 else f"{value / 3600:.1f} Wh"


def is_share(name: str) -> bool:
    """Whether a metric of that name is a share of its examples, and shown in per cent."""
    return name.endswith("accuracy")


def metric(name: str, value: float | None) -> str:
    """A metric: shares in per cent, others with four digits.

    Example:
        >>> metric("accuracy", 0.9641), metric("loss", 0.123456), metric("loss", float("nan"))
        ('96.4 %', '0.1235', 'not finite')
    """
    if value is None:
        return NOTHING
    if not math.isfinite(value):
        return "not finite"
    return f"{100 * value:.1f} %" if is_share(name) else f"{value:.4g}"


def plural(number: float, one: str, many: str | None = None) -> str:
    """A number and its noun.

    Example:
        >>> plural(1, "site"), plural(2, "reply", "replies")
        ('1 site', '2 replies')
    """
    return f"{count(number)} {one if number == 1 else many or one + 's'}"


def names(values: Sequence[str], at_most: int = 6) -> str:
    """Some names, and how many more there are."""
    shown = ", ".join(values[:at_most])
    return f"{shown} and {count(len(values) - at_most)} more" if len(values) > at_most else shown


def moment(time: datetime.datetime) -> str:
    """A time of the wall clock."""
    return f"{time.astimezone(datetime.UTC):%Y-%m-%d %H:%M:%S} UTC"
