"""Strategies by the name that a run file gives them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fl.config import load, unknown
from fl.strategies.averaging import FedAvg, FedProx
from fl.strategies.base import Strategy
from fl.strategies.coordinatewise import Median, TrimmedMean
from fl.strategies.distances import GeometricMedian, Krum, MultiKrum
from fl.strategies.optimisers import FedAdagrad, FedAdam, FedAvgM, FedYogi

STRATEGIES: Mapping[str, type[Strategy]] = {
    strategy.name: strategy
    for strategy in (
        FedAvg,
        FedProx,
        FedAvgM,
        FedAdagrad,
        FedAdam,
        FedYogi,
        Median,
        TrimmedMean,
        Krum,
        MultiKrum,
        GeometricMedian,
    )
}
"""Every built-in strategy, by name."""


def create(name: str, options: Mapping[str, Any]) -> Strategy:
    """A strategy with its options.

    Args:
        name: One of ``available()``.
        options: The other keys of ``[strategy]``.

    Raises:
        ConfigError: On an unknown strategy or key, or a value out of its range.

    Example:
        >>> create("trimmed_mean", {"trimmed_fraction": 0.1})
        TrimmedMean(trimmed_fraction=0.1)
    """
    if name not in STRATEGIES:
        raise unknown("strategy", name, STRATEGIES)
    return load(STRATEGIES[name], options, table="strategy")


def available() -> dict[str, str]:
    """For each strategy, by name, what it does in one line."""
    return {name: (cls.__doc__ or "").split("\n", 1)[0] for name, cls in STRATEGIES.items()}
