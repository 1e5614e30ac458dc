"""Metrics of many sites as one: means weighted by the examples behind them.

A metric is a named float. What a site reports is already the mean over its ``num_examples`` examples, so the mean
of all examples is the weighted mean of the sites.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

Metrics = Mapping[str, float]


def weighted_mean(reports: Iterable[tuple[int, Metrics]]) -> dict[str, float]:
    """The mean of each metric over all examples, in the order given (sums are order-dependent to the bit).

    Args:
        reports: For each site ``(num_examples, metrics)``. A metric that a site lacks, or that is not finite
            there, is averaged over the others.

    Returns:
        One value for each metric that any site reported.

    Example:
        >>> weighted_mean([(1, {"loss": 1.0}), (3, {"loss": 2.0})])
        {'loss': 1.75}
    """
    sums: dict[str, float] = {}
    weights: dict[str, int] = {}
    for num_examples, metrics in reports:
        for name, value in metrics.items():
            if math.isfinite(value) and num_examples > 0:
                sums[name] = sums.get(name, 0.0) + num_examples * value
                weights[name] = weights.get(name, 0) + num_examples
    return {name: sums[name] / weights[name] for name in sorted(sums)}
