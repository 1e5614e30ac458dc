"""Robust strategies that look at whole updates, through the distances between them.

Krum and Multi-Krum are Blanchard, El Mhamdi, Guerraoui, Stainer: Machine Learning with Adversaries:
Byzantine Tolerant Gradient Descent, NeurIPS 2017. The geometric median is RFA of Pillutla, Kakade,
Harchaoui: Robust Aggregation for Federated Learning, IEEE Transactions on Signal Processing 2022. Both end
in a weighted sum of the updates; here is how the weights are found. Distances are summed in float64, so
that no finite update makes one overflow.

Shape letters: N updates, T elements of a tile, R rows of scratch memory.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
import statistics
from collections.abc import Sequence
from typing import ClassVar

import numpy as np

from fl.arrays import F32
from fl.config import check_range
from fl.strategies.averaging import WeightedSum, example_shares, shares
from fl.strategies.base import F64, Rule, Scan, Strategy, Tiles, Update

DISTANCE_ROWS = 3
"""Rows of scratch memory of ``_squared_distance``: float64 takes two."""


def _squared_distance(left_T: F32, right_T: F32, scratch_RT: F32) -> np.float64:
    """``‖left − right‖²`` of a tile, float64."""
    difference_T, squares_T = scratch_RT[0], scratch_RT[1:3].reshape(-1).view(np.float64)
    np.subtract(left_T, right_T, out=difference_T)
    np.square(difference_T, out=squares_T, dtype=np.float64)
    return np.float64(np.add.reduce(squares_T))


def squared_distances(num_updates: int, scan: Scan) -> F64:
    """The squared Euclidean distance between every two updates, float64, shape ``(N, N)``; one pass."""
    pairs = list(itertools.combinations(range(num_updates), 2))

    def measure(tiles: Tiles, scratch_RT: F32) -> F64:
        rows_NT, others_RT = scratch_RT[:num_updates], scratch_RT[num_updates:]
        tiles.copy_to(rows_NT)
        return np.array([_squared_distance(rows_NT[i], rows_NT[j], others_RT) for i, j in pairs])

    distances_NN = np.zeros((num_updates, num_updates))
    for (i, j), distance in zip(pairs, scan(measure, scratch_rows=num_updates + DISTANCE_ROWS), strict=True):
        distances_NN[i, j] = distances_NN[j, i] = distance
    return distances_NN


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Krum(Strategy):
    """The one update that lies closest to its neighbours.

    An update's score is the sum of its squared distances to the ``n − f − 2`` updates nearest to it, n
    being the updates and f ``num_malicious_sites``; the lowest score wins, the first in site order if two
    are equal.
    """

    name: ClassVar[str] = "krum"

    num_malicious_sites: int = 1
    """f, how many sites may send anything at all; a round then needs ``2 f + 3`` updates."""

    def __post_init__(self) -> None:
        check_range("strategy.num_malicious_sites", self.num_malicious_sites, at_least=0)

    def minimum_updates(self) -> int:
        """``2 f + 3``."""
        return 2 * self.num_malicious_sites + 3

    def rule(self, updates: Sequence[Update], scan: Scan) -> Rule:
        """The mean of the updates with the lowest scores."""
        nearest = len(updates) - self.num_malicious_sites - 2
        distances_NN = np.sort(squared_distances(len(updates), scan), axis=1)  # its own 0 comes first
        scores_N = distances_NN[:, 1 : nearest + 1].sum(axis=1)
        chosen = set(np.argsort(scores_N, kind="stable")[: self._num_selected(len(updates))].tolist())
        return WeightedSum([1 / len(chosen) if i in chosen else 0.0 for i in range(len(updates))])

    def _num_selected(self, num_updates: int) -> int:
        return 1


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class MultiKrum(Krum):
    """The mean of the updates with the lowest scores of Krum, each counted once.

    (Flower weighs them by ``num_examples``, which is what a site says of itself.) That m = n − f − 2 is resilient is
    shown in Damaskinos, El Mhamdi, Guerraoui, Guirguis, Rouault: AggregaThor, MLSys 2019.
    """

    name: ClassVar[str] = "multi_krum"

    num_selected_sites: int | None = None
    """m, how many updates are averaged; left out, ``n − f − 2`` of n."""

    def __post_init__(self) -> None:
        Krum.__post_init__(self)
        check_range("strategy.num_selected_sites", self.num_selected_sites, at_least=1)

    def minimum_updates(self) -> int:
        """``2 f + 3``, and as many as are selected."""
        return max(Krum.minimum_updates(self), self.num_selected_sites or 0)

    def _num_selected(self, num_updates: int) -> int:
        return self.num_selected_sites or num_updates - self.num_malicious_sites - 2


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class GeometricMedian(Strategy):
    """The point with the smallest sum of distances to the updates.

    Smoothed Weiszfeld: ``βᵢ ← αᵢ / max(ν, ‖v − Δᵢ‖)``, ``v ← Σᵢ βᵢ Δᵢ / Σᵢ βᵢ``, with Δᵢ the update of site i and
    αᵢ its weight. It starts from the mean of the updates shortened to their median length (the authors' code starts
    from the plain mean, which one large update carries away), and ends when no β changes by more than a
    ten-thousandth, or after ``max_iterations``, each of which reads all updates twice. It holds against less than
    half of the weight.
    """

    name: ClassVar[str] = "geometric_median"

    max_iterations: int = 10
    """The most steps that are taken; the paper finds three enough in practice."""

    smoothing: float = 1e-6
    """ν, the distance below which nearer does not weigh more."""

    weighted: bool = False
    """Weigh sites by ``num_examples`` as the paper does, where what they say of themselves can be trusted."""

    def __post_init__(self) -> None:
        check_range("strategy.max_iterations", self.max_iterations, at_least=1)
        check_range("strategy.smoothing", self.smoothing, above=0)

    def rule(self, updates: Sequence[Update], scan: Scan) -> Rule:
        """The weights of the last step."""
        alphas = example_shares(updates) if self.weighted else [1 / len(updates)] * len(updates)
        lengths = _distances([0.0] * len(updates), scan)
        shorten = [min(1.0, statistics.median(lengths) / length) if length else 1.0 for length in lengths]
        weights = shares([alpha * factor for alpha, factor in zip(alphas, shorten, strict=True)])
        for _ in range(self.max_iterations):
            before, distances = weights, _distances(weights, scan)
            weights = shares([alpha / max(self.smoothing, d) for alpha, d in zip(alphas, distances, strict=True)])
            if all(math.isclose(new, old, rel_tol=1e-4) for new, old in zip(weights, before, strict=True)):
                break
        return WeightedSum(weights)


def _distances(weights: Sequence[float], scan: Scan) -> list[float]:
    """How far each update is from the weighted sum of all; one pass."""
    centre = WeightedSum(weights)

    def measure(tiles: Tiles, scratch_RT: F32) -> F64:
        centre_T, others_RT = scratch_RT[0], scratch_RT[1:]
        centre(tiles, centre_T, others_RT)
        return np.array([_squared_distance(tile_T, centre_T, others_RT) for tile_T in tiles.read()])

    return [math.sqrt(square) for square in scan(measure, scratch_rows=1 + DISTANCE_ROWS)]
