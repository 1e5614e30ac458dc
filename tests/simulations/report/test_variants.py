"""Runs that differ in their seed alone are one variant, and variants have short names of their own."""

from __future__ import annotations

import dataclasses
import itertools
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from simulations.report.find import find
from simulations.report.trial import Trial, read_trial
from simulations.report.variants import Stat, metrics_of, place_of, variants


def changed(trial: Trial, seed: int = 1, **tables: dict[str, Any]) -> Trial:
    """The trial as if its configuration had been another."""
    config = {**trial.facts.config, "run": {**trial.facts.config["run"], "seed": seed}}
    for name, table in tables.items():
        config[name] = {**config[name], **table} if config.get(name) else table
    facts = dataclasses.replace(
        trial.facts, config=config, run=dataclasses.replace(trial.facts.run, seed=seed, directory=str(seed))
    )
    return dataclasses.replace(trial, facts=facts)


def labels(*trials: Trial) -> list[str]:
    return [variant.label for variant in variants(trials)]


@pytest.fixture(scope="module")
def trial(run: Path) -> Trial:
    return read_trial(run)


def test_runs_of_a_sweep_are_its_variants_over_their_seeds(sweep: Path) -> None:
    fedadam, fedavg = variants(find(sweep).trials)
    assert (fedadam.label, fedadam.seeds) == ("fedadam", (1, 2))
    assert (fedavg.label, fedavg.seeds) == ("fedavg", (1, 2))
    assert fedadam.settings == {"strategy.name": "fedadam", "strategy.server_learning_rate": 0.03}
    assert fedavg.settings == {"strategy.name": "fedavg", "strategy.server_learning_rate": None}


def test_a_variant_alone_is_called_after_its_run(trial: Trial) -> None:
    assert labels(trial, changed(trial, seed=2)) == ["small-strategy-fedavg"]


def test_the_engine_the_journal_and_the_name_make_no_other_variant(trial: Trial) -> None:
    other = changed(trial, seed=2, journal={"keep_updates": True}, run={"name": "else"})
    simulation = {**other.facts.config["simulation"], "engine": {"mode": "pool"}, "scenario": {"title": "x"}}
    assert len(variants([trial, changed(other, seed=2, simulation=simulation)])) == 1


def test_a_label_has_as_few_settings_as_tell_the_variants_apart(trial: Trial) -> None:
    one, other = changed(trial, training={"learning_rate": 0.1}), changed(trial, training={"learning_rate": 1e-6})
    assert labels(one, other) == ["learning_rate 0.1", "learning_rate 1e-06"]
    assert labels(one, changed(one, strategy={"name": "fedyogi", "tau": 0.1}, training={"epochs": 3})) == [
        "fedavg",
        "fedyogi",
    ]
    rates, names = (0.1, 0.2), ("fedavg", "median")
    product = [
        changed(trial, strategy={"name": name}, training={"learning_rate": rate})
        for name, rate in itertools.product(names, rates)
    ]
    assert labels(*product) == [
        "fedavg, learning_rate 0.1",
        "fedavg, learning_rate 0.2",
        "median, learning_rate 0.1",
        "median, learning_rate 0.2",
    ]


def test_settings_that_end_alike_have_their_whole_name_and_those_that_some_lack_say_so(trial: Trial) -> None:
    variations = [
        changed(trial, strategy={"learning_rate": rate}, training={"learning_rate": other})
        for rate, other in itertools.product((1.0, 2.0), (0.1, 0.2))
    ]
    assert labels(*variations)[0] == "strategy.learning_rate 1, training.learning_rate 0.1"
    assert labels(trial, changed(trial, secagg={"clip": 1.0})) == ["no clip", "clip 1"]


@given(st.lists(st.tuples(*[st.integers(0, 2)] * 4), min_size=1, max_size=12))
def test_no_two_variants_have_one_label(trial: Trial, points: list[tuple[int, ...]]) -> None:
    runs = [
        changed(trial, training={"epochs": a + 1, "batch_size": b + 1}, strategy={"name": f"s{c}"}, split={"alpha": d})
        for a, b, c, d in points
    ]
    found = labels(*runs)
    assert len(found) == len(set(found)) == len(set(points))


def test_a_seed_that_was_run_twice_counts_once_with_the_run_that_came_furthest(trial: Trial) -> None:
    short = dataclasses.replace(trial, points=trial.points[:2], directory=Path("short"))
    (variant,) = variants([trial, short])
    assert variant.trials == (trial,)
    (variant,) = variants([short, trial])
    assert variant.trials == (trial,)


def test_a_metric_is_compared_where_all_runs_that_have_it_measured_it(sweep: Path, untimed: Path) -> None:
    trials = list(find(sweep).trials)
    assert metrics_of(trials) == ["accuracy", "loss"]
    assert place_of(trials, "accuracy") == "centre"
    assert place_of([*trials, *find(untimed).trials], "accuracy") == "training"
    nothing = dataclasses.replace(trials[0], points=())
    assert place_of([*trials, nothing], "accuracy") == "centre"
    assert place_of([nothing], "accuracy") is None
    at_sites = [dataclasses.replace(point, metrics={"sites": {"f1": 0.5}}) for point in trials[0].points]
    at_centre = [dataclasses.replace(point, metrics={"centre": {"f1": 0.5}}) for point in trials[0].points]
    ones = [dataclasses.replace(trials[0], points=tuple(points)) for points in (at_sites, at_centre)]
    assert place_of(ones, "f1") is None


@given(st.lists(st.one_of(st.none(), st.floats(-1e6, 1e6), st.just(math.nan), st.just(math.inf))))
def test_a_figure_over_seeds_is_of_those_that_have_it(values: list[float | None]) -> None:
    there = [value for value in values if value is not None and math.isfinite(value)]
    stat = Stat.of(values)
    if not there:
        assert stat is None
        return
    assert stat is not None
    assert stat.count == len(there)
    assert (stat.low, stat.high) == (min(there), max(there))
    assert stat.mean == pytest.approx(np.mean(there))
    deviation = math.sqrt(sum((value - stat.mean) ** 2 for value in there) / (len(there) - 1)) if len(there) > 1 else 0
    assert stat.std == pytest.approx(deviation, abs=1e-6)
