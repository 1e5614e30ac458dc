"""What it costs to reach an accuracy: rounds, bytes, simulated time and energy."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from fl.report.facts import Place
from simulations.report.trial import Point, Trial, badness
from simulations.report.variants import Stat, Variant

THRESHOLDS = (0.8, 0.9, 0.95)
"""Accuracies whose price is told wherever a run reached them."""


@dataclasses.dataclass(frozen=True, slots=True)
class Reached:
    """The price of a value of a metric, over the seeds that reached it.

    Attributes:
        target: The value.
        count: How many reached it.
        rounds: Until then.
        size_bytes: Of training, both ways.
        at_s: Simulated seconds; ``None`` where nothing takes simulated time.
        energy_j: Of training.
    """

    target: float
    count: int
    rounds: Stat | None
    size_bytes: Stat | None
    at_s: Stat | None
    energy_j: Stat | None


def first(trial: Trial, place: Place, metric: str, target: float) -> Point | None:
    """The first measured round that is as good as a target."""
    goal = badness(metric, target)
    return next((point for point, value in trial.curve(place, metric) if badness(metric, value) <= goal), None)


def best(trial: Trial, place: Place, metric: str) -> float | None:
    """The best value of any round; ``None`` if there is none."""
    return min((value for _, value in trial.curve(place, metric)), key=lambda v: badness(metric, v), default=None)


def best_common(trials: Sequence[Trial], place: Place, metric: str) -> float | None:
    """The best value that all of the runs reached that measured it."""
    values = [value for trial in trials if (value := best(trial, place, metric)) is not None]
    return max(values, key=lambda value: badness(metric, value), default=None)


def reached(variant: Variant, place: Place, metric: str, target: float) -> Reached:
    """What a target costs in a variant."""
    found = [(trial, point) for trial in variant.trials if (point := first(trial, place, metric, target)) is not None]
    points = [point for _, point in found]
    return Reached(
        target=target,
        count=len(points),
        rounds=Stat.of(point.round for point in points),
        size_bytes=Stat.of(point.size_bytes for point in points),
        at_s=Stat.of(point.at_s for trial, point in found if trial.is_timed),
        energy_j=Stat.of(point.energy_j for point in points),
    )
