"""Runs that differ in their seed alone, as one; and what sets such variants apart."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from fl.report.facts import Place
from fl.report.words import NOTHING
from simulations.report.trial import PLACES, Trial

ASIDE = ("run.seed", "run.name", "journal", "simulation.engine", "simulation.scenario", "simulation.sweep")
"""Keys and tables that don't decide what a run is an example of."""

TELLING = ("name", "kind")
"""Keys whose values tell by themselves what they are."""


@dataclasses.dataclass(frozen=True, slots=True)
class Stat:
    """A figure over seeds.

    Attributes:
        mean: Over those that have it.
        std: Their sample standard deviation (divided by n - 1), 0 for one alone.
        low: The lowest.
        high: The highest.
        count: How many have it.
    """

    mean: float
    std: float
    low: float
    high: float
    count: int

    @classmethod
    def of(cls, values: Iterable[float | None]) -> Stat | None:
        """Of those that are there and finite; ``None`` if none is.

        Example:
            >>> Stat.of([1.0, None, 3.0])
            Stat(mean=2.0, std=1.4142135623730951, low=1.0, high=3.0, count=2)
        """
        there = [value for value in values if value is not None and math.isfinite(value)]
        if not there:
            return None
        std = float(np.std(there, ddof=1)) if len(there) > 1 else 0.0
        return cls(float(np.mean(there)), std, min(there), max(there), len(there))


@dataclasses.dataclass(frozen=True, slots=True)
class Variant:
    """Runs of one configuration with different seeds.

    Attributes:
        label: Its name, the only one of its kind.
        trials: One a seed, by seed.
        settings: The keys in which the variants at hand differ, and what they are here; ``None`` where it has none.
    """

    label: str
    trials: tuple[Trial, ...]
    settings: Mapping[str, Any]

    @property
    def seeds(self) -> tuple[int, ...]:
        """Those of its runs."""
        return tuple(trial.facts.run.seed for trial in self.trials)


def variants(trials: Sequence[Trial]) -> tuple[Variant, ...]:
    """The runs by their configuration, in the order in which each comes first."""
    groups: dict[str, list[Trial]] = {}
    configs: dict[str, dict[str, Any]] = {}
    for trial in trials:
        config = dict(_flat(trial.facts.config))
        key = json.dumps(config, sort_keys=True)
        groups.setdefault(key, []).append(trial)
        configs[key] = config
    differing = _differing([*configs.values()])
    settings = [{name: configs[key].get(name) for name in differing} for key in groups]
    labels = _labels(settings) if differing else [trials[0].facts.run.name] if trials else []
    return tuple(
        Variant(label, tuple(_one_a_seed(group)), setting)
        for label, group, setting in zip(labels, groups.values(), settings, strict=True)
    )


def text_of(value: Any) -> str:
    """A setting for people.

    Example:
        >>> text_of(None), text_of(True), text_of(0.1), text_of(1e10), text_of("fedavg"), text_of([1, 2])
        ('–', 'true', '0.1', '1e+10', 'fedavg', '[1, 2]')
    """
    if isinstance(value, float):
        return short if float(short := f"{value:g}") == value else repr(value)
    return NOTHING if value is None else value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def metrics_of(trials: Sequence[Trial]) -> list[str]:
    """Every metric that any of the runs measured anywhere: accuracy, loss, then by name."""
    found = {name for trial in trials for point in trial.points for place in point.metrics.values() for name in place}
    return sorted(found, key=lambda name: (name != "accuracy", name != "loss", name))


def place_of(trials: Sequence[Trial], metric: str) -> Place | None:
    """The most telling place at which all runs measured a metric, so that they can be compared.

    Runs that measured it nowhere are left aside.
    """
    known = [trial for trial in trials if any(trial.measures(place, metric) for place in PLACES)]
    return next((place for place in PLACES if known and all(one.measures(place, metric) for one in known)), None)


def _flat(table: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted keys and their values, without those that are set aside; lists of tables by their entries' numbers."""
    for name, value in table.items():
        key = f"{prefix}{name}"
        if key in ASIDE:
            continue
        if isinstance(value, list) and any(isinstance(entry, Mapping) for entry in value):
            value = {str(number): entry for number, entry in enumerate(value)}
        if isinstance(value, Mapping):
            yield from _flat(value, f"{key}.")
        else:
            yield key.removeprefix("simulation."), value


def _differing(configs: Sequence[Mapping[str, Any]]) -> list[str]:
    keys = dict.fromkeys(key for config in configs for key in config)
    return [key for key in keys if len({json.dumps(config.get(key)) for config in configs}) > 1]


def _one_a_seed(trials: Iterable[Trial]) -> list[Trial]:
    """By seed; of several runs with one seed the one that came furthest, then the newest.

    They are the same run again, and would make the seeds look more alike than they are.
    """
    by_seed: dict[int, Trial] = {}
    for trial in sorted(trials, key=lambda trial: (len(trial.points), trial.facts.run.started)):
        by_seed[trial.facts.run.seed] = trial
    return [by_seed[seed] for seed in sorted(by_seed)]


def _labels(settings: Sequence[Mapping[str, Any]]) -> list[str]:
    """As few settings as tell the variants apart: those that all have before others, names and kinds before numbers."""
    lacking = {key for setting in settings for key, value in setting.items() if value is None}
    keys = sorted(settings[0], key=lambda key: (key in lacking, _last(key) not in TELLING))
    chosen: list[str] = []
    while keys and _groups(settings, chosen) < len(settings):
        splits = {key: _groups(settings, [*chosen, key]) for key in keys}
        best = max(keys, key=lambda key: splits[key])
        chosen.append(best)
        keys.remove(best)
    ends = [_last(key) for key in chosen]
    shown = {key: key if ends.count(_last(key)) > 1 else _last(key) for key in chosen}
    return [", ".join(_phrase(key, shown[key], setting[key]) for key in chosen) for setting in settings]


def _groups(settings: Sequence[Mapping[str, Any]], keys: Sequence[str]) -> int:
    """How many kinds of variants some keys tell apart."""
    return len({json.dumps([setting[key] for key in keys], sort_keys=True) for setting in settings})


def _last(key: str) -> str:
    return key.rpartition(".")[2]


def _phrase(key: str, shown: str, value: Any) -> str:
    if value is None:
        return f"no {shown}"
    return text_of(value) if _last(key) in TELLING and isinstance(value, str) else f"{shown} {text_of(value)}"
