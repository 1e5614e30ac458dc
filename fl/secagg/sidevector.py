"""The side vector: example counts, metrics and clip counts, masked like the update and summed with it.

Each number is a 64-bit integer modulo 2**64: ``[num_examples, weight, clipped, metric and its count, ...]``. Metrics
are weighted with the site's examples in fixed point; one that a site lacks or that is not finite counts nothing, as
in ``fl.metrics``.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from fl.secagg.errors import UnmaskError

U64 = npt.NDArray[np.uint64]

WEIGHT_UNIT = 2**32
"""A site's weight, in (0, 1], is carried as a multiple of one over this."""

METRIC_UNIT = 2**20
METRIC_LIMIT = 2.0**12
"""Metrics are clipped to this absolute value, and carried to about one millionth."""

MAX_EXAMPLES = 2**31
"""Sum of the examples by which metrics are weighted; with the two above it fits 63 bits."""

HEAD = 3


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class SideSum:
    """What the side vector's sum says about all survivors together.

    Attributes:
        num_examples: Examples behind the update.
        weight: Sum of the sites' weights.
        clipped: Elements that lay outside their clip.
        metrics: Mean of each metric over the examples behind it.
    """

    num_examples: int
    weight: float
    clipped: int
    metrics: dict[str, float]


def side_length(metrics: Sequence[str]) -> int:
    """Elements of the side vector."""
    return HEAD + 2 * len(metrics)


def site_weight(num_examples: int, weight_cap: int) -> float:
    """A site's weight: its examples over the cap, at most 1; always 1 if the cap is 0. Rounded to ``WEIGHT_UNIT``."""
    if not weight_cap:
        return 1.0
    return math.ceil(min(num_examples, weight_cap) / weight_cap * WEIGHT_UNIT) / WEIGHT_UNIT


def encode_side(
    names: Sequence[str],
    metrics: Mapping[str, float],
    *,
    num_examples: int,
    weight: float,
    clipped: int,
    n_max: int,
) -> U64:
    """One site's side vector, shape ``(3 + 2 * len(names),)``."""
    values = [num_examples, round(weight * WEIGHT_UNIT), clipped]
    count = min(num_examples, MAX_EXAMPLES // n_max)
    for name in names:
        value = metrics.get(name, math.nan)
        if math.isfinite(value):
            value = min(max(value, -METRIC_LIMIT), METRIC_LIMIT)
            values += [round(value * METRIC_UNIT) * count, count]
        else:
            values += [0, 0]
    return np.array([value % 2**64 for value in values], np.uint64)


def decode_side(names: Sequence[str], total: U64, *, count: int) -> SideSum:
    """The sum of ``count`` sites' side vectors.

    Raises:
        UnmaskError: If its weight cannot come from that many sites.
    """
    num_examples, weight, clipped, *rest = (int(value) for value in total)
    if not 0 < weight <= count * WEIGHT_UNIT:
        raise UnmaskError(f"the side vector's weight cannot come from {count} sites: its masks did not cancel")
    metrics = {}
    for index, name in enumerate(names):
        value, examples = rest[2 * index], rest[2 * index + 1]
        signed = value - 2**64 if value >= 2**63 else value
        if examples:
            metrics[name] = signed / METRIC_UNIT / examples
    return SideSum(num_examples=num_examples, weight=weight / WEIGHT_UNIT, clipped=clipped, metrics=metrics)
