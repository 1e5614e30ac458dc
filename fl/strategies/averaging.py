"""Weighted means of updates, and the two strategies that are nothing else.

FedAvg is McMahan, Moore, Ramage, Hampson, Agüera y Arcas: Communication-Efficient Learning of Deep Networks
from Decentralized Data, AISTATS 2017. FedProx is Li, Sahu, Zaheer, Sanjabi, Talwalkar, Smith: Federated
Optimization in Heterogeneous Networks, MLSys 2020.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import ClassVar

import numpy as np

from fl.arrays import F32
from fl.config import check_range
from fl.errors import RunError
from fl.strategies.base import Rule, Scan, Strategy, Tiles, Update


class WeightedSum:
    """``Σᵢ wᵢ Δᵢ`` in float32, added in the order of the updates; an update of weight 0 is not even read."""

    scratch_rows = 1

    def __init__(self, weights: Sequence[float]) -> None:
        self._chosen = [i for i, weight in enumerate(weights) if weight]
        self._weights = [np.float32(weights[i]) for i in self._chosen]

    def __call__(self, tiles: Tiles, out_T: F32, scratch_RT: F32) -> None:
        """See ``Rule``."""
        if not self._chosen:
            out_T.fill(0.0)
        for nth, (tile_T, weight) in enumerate(zip(tiles.read(self._chosen), self._weights, strict=True)):
            if nth == 0:
                np.multiply(tile_T, weight, out=out_T)
            else:
                np.add(out_T, np.multiply(tile_T, weight, out=scratch_RT[0]), out=out_T)


def shares(values: Sequence[float]) -> list[float]:
    """Each value's part of their sum."""
    whole = math.fsum(values)
    return [value / whole for value in values]


def example_shares(updates: Sequence[Update]) -> list[float]:
    """Each site's part of all examples.

    Raises:
        RunError: If no site has any.
    """
    if not any(update.num_examples for update in updates):
        raise RunError(
            f"none of the {len(updates)} sites that answered has an example to train on",
            hint="look at the data of the sites with fl run show",
        )
    return shares([update.num_examples for update in updates])


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class FedAvg(Strategy):
    """The mean of the updates, weighted by examples.

    ``x ← x + Σᵢ (nᵢ / n) Δᵢ`` with nᵢ the examples of site i and n those of all survivors.
    """

    name: ClassVar[str] = "fedavg"

    def rule(self, updates: Sequence[Update], scan: Scan) -> Rule:
        """A weighted sum; needs no pass over the updates beforehand."""
        return WeightedSum(example_shares(updates))


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class FedProx(FedAvg):
    """FedAvg whose sites pay for straying from the global model.

    A site minimises ``F(w) + (μ / 2) ‖w − x‖²`` with x the model it was sent; the fold is that of FedAvg.
    """

    name: ClassVar[str] = "fedprox"

    proximal_mu: float = 0.01
    """μ, the price of distance from the global model; the paper tries 0.001 to 1, and 0 is FedAvg."""

    def __post_init__(self) -> None:
        check_range("strategy.proximal_mu", self.proximal_mu, at_least=0)

    def site_options(self) -> Mapping[str, float]:
        """``proximal_mu``, for the training loop."""
        return {"proximal_mu": self.proximal_mu}
