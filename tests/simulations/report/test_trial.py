"""What is read from one journal, held against the journal's own lines."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fl.report.facts import Place
from fl.rounds import events
from fl.rounds.journal import read
from simulations import Scenario
from simulations.hostile import Conspiracy
from simulations.report.trial import Point, Trial, badness, is_better_higher, read_trial


@pytest.fixture(scope="module")
def trial(run: Path) -> Trial:
    return read_trial(run)


def with_values(trial: Trial, values: list[float], *, place: Place = "centre", metric: str = "loss") -> Trial:
    """The trial with another curve, a round a value."""
    points = [
        Point(i + 1, 10.0 * (i + 1), 100 * (i + 1), 1.0 * (i + 1), {place: {metric: value}})
        for i, value in enumerate(values)
    ]
    return dataclasses.replace(trial, points=tuple(points))


def with_sites(trial: Trial, values: dict[str, float], hostile: tuple[str, ...] = ()) -> Trial:
    at_sites = {2: {site: {"accuracy": value} for site, value in values.items()}}
    return dataclasses.replace(trial, at_sites=at_sites, hostile=dict.fromkeys(hostile, "scale"))


def test_a_point_has_the_clock_the_bytes_the_energy_and_the_metrics_of_its_round(run: Path, trial: Trial) -> None:
    sent = received = 0
    energy_j, found, parameters = 0.0, [], 0
    began_s = read(run)[0].clock_s
    for record in read(run):
        event = record.event
        if isinstance(event, events.ModelInitialised):
            parameters = event.parameters
        elif isinstance(event, events.RoundOpened):
            sent += 4 * parameters * len(event.cohort)
        elif isinstance(event, events.UpdateLanded):
            received += event.size_bytes
            energy_j += event.report["energy_j"]
        elif isinstance(event, events.RoundCommitted):
            found.append((event.round, record.clock_s - began_s, sent + received, energy_j))
    assert [point.round for point in trial.points] == [1, 2, 3, 4]
    for point, (number, at_s, size_bytes, joules) in zip(trial.points, found, strict=True):
        assert point.round == number
        assert point.at_s == pytest.approx(at_s, abs=2e-3)
        assert point.size_bytes == size_bytes
        assert point.energy_j == pytest.approx(joules)
    evaluated = {
        (record.event.round, record.event.at): record.event.metrics
        for record in read(run)
        if isinstance(record.event, events.Evaluated)
    }
    for point in trial.points:
        assert point.metrics["centre"] == evaluated[point.round, "centre"]
        assert ("sites" in point.metrics) == (point.round % 2 == 0)


def test_every_site_that_is_hostile_is_known_also_if_it_never_trained(run: Path, trial: Trial) -> None:
    scenario = Scenario.from_journal(run)
    conspiracy = Conspiracy(scenario.hostile, 1)
    names = {site for sites in trial.at_sites.values() for site in sites}
    hostile = {site for site in names if conspiracy.of(site)}
    assert 0 < len(hostile) < len(names)
    assert hostile <= set(trial.hostile)
    assert not hostile & set(trial.spread(4, "accuracy"))
    assert set(trial.spread(4, "accuracy")) == set(trial.at_sites[4]) - hostile


def test_time_is_simulated_where_something_takes_simulated_time(trial: Trial, untimed: Path) -> None:
    assert trial.is_timed
    assert trial.simulated_s == trial.points[-1].at_s
    plain = read_trial(untimed)
    assert not plain.is_timed
    assert plain.simulated_s is None
    assert plain.points[-1].energy_j is None


def test_what_is_not_finite_is_in_no_curve_and_is_said(trial: Trial) -> None:
    odd = with_values(trial, [2.0, math.inf, math.nan])
    assert [value for _, value in odd.curve("centre", "loss")] == [2.0]
    assert odd.diverged_in == 2
    assert math.isnan(odd.final("centre", "loss") or 0.0)
    assert with_values(trial, [2.0, 1.0]).diverged_in is None
    assert odd.final("sites", "loss") is None


@given(st.lists(st.floats(0, 1), min_size=1, max_size=40))
def test_the_worst_decile_is_the_mean_of_the_tenth_that_fares_worst(trial: Trial, values: list[float]) -> None:
    fair = with_sites(trial, {f"site-{i}": value for i, value in enumerate(values)}).fairness("accuracy")
    assert fair is not None
    worst = sorted(values)[: math.ceil(len(values) / 10)]
    assert fair.worst_decile == pytest.approx(np.mean(worst))
    assert fair.worst == min(values)
    assert fair.std == pytest.approx(np.std(values))
    assert fair.num_sites == len(values)


def test_hostile_sites_and_those_that_measured_nothing_finite_are_not_in_the_worst_decile(trial: Trial) -> None:
    fair = with_sites(trial, {"a": 0.0, "b": 0.5, "c": 0.9, "d": math.nan}, hostile=("a",)).fairness("accuracy")
    assert fair is not None
    assert (fair.num_sites, fair.worst_site, fair.worst, fair.round) == (2, "b", 0.5, 2)
    assert with_sites(trial, {"a": 0.0}, hostile=("a",)).fairness("accuracy") is None


@pytest.mark.parametrize(
    ("metric", "is_higher"),
    [
        ("accuracy", True),
        ("balanced_accuracy", True),
        ("f1", True),
        ("loss", False),
        ("log_loss", False),
        ("mse", False),
    ],
)
def test_the_name_of_a_metric_says_which_way_is_better(metric: str, is_higher: bool) -> None:
    assert is_better_higher(metric) == is_higher
    assert (badness(metric, 1.0) < badness(metric, 0.0)) == is_higher
