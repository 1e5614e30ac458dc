"""Robust strategies that look at one parameter at a time.

Both are from Yin, Chen, Kannan, Bartlett: Byzantine-Robust Distributed Learning: Towards Optimal
Statistical Rates, ICML 2018. Like every robust strategy here they count each site once: ``num_examples`` is
what a site says of itself, and a malicious one would say a large number.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import ClassVar

from fl.config import check_range
from fl.strategies.base import Rule, Scan, Strategy, Update
from fl.strategies.sorting import MiddleMean


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Median(Strategy):
    """The median of each parameter over the sites; of an even number, the mean of the middle two.

    It holds against fewer than half of the sites, whatever they send.
    """

    name: ClassVar[str] = "median"

    def rule(self, updates: Sequence[Update], scan: Scan) -> Rule:
        """The middle one or two of the sorted values."""
        return MiddleMean(len(updates), cut=(len(updates) - 1) // 2)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class TrimmedMean(Strategy):
    """The mean of each parameter over the sites without its largest and smallest values.

    Of N updates, ``⌊βN⌋`` values are cut at either end; it holds against as many sites.
    """

    name: ClassVar[str] = "trimmed_mean"

    trimmed_fraction: float = 0.2
    """β, the share of the sites that is cut at either end; below 0.5."""

    def __post_init__(self) -> None:
        check_range("strategy.trimmed_fraction", self.trimmed_fraction, above=0, below=0.5)

    def minimum_updates(self) -> int:
        """As many as it takes to cut one at either end: of fewer this would be a plain mean, without a word."""
        return math.ceil(1 / self.trimmed_fraction - 1e-9)

    def rule(self, updates: Sequence[Update], scan: Scan) -> Rule:
        """The sorted values without the cut ones."""
        cut = math.floor(self.trimmed_fraction * len(updates) + 1e-9)  # 0.29 of 100 is 29, not 28.999…
        return MiddleMean(len(updates), cut)
