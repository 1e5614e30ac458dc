"""Variants side by side: final figures, fairness, and what a value costs."""

from __future__ import annotations

import dataclasses
import json
import math
import statistics
from pathlib import Path

import pytest

from fl.errors import ConfigError
from simulations.report import compare
from simulations.report.comparison import Comparison, as_dict, rows
from simulations.report.comparison import compare as compare_found
from simulations.report.find import Found, find
from simulations.report.phrases import of_metric, of_size, prices
from simulations.report.reach import best_common, first, reached
from simulations.report.trial import Point, Trial, read_trial
from simulations.report.variants import Stat, variants


@pytest.fixture(scope="module")
def comparison(sweep: Path) -> Comparison:
    return compare(sweep)


def curve(trial: Trial, values: list[float], *, seed: int = 1, metric: str = "accuracy") -> Trial:
    points = [
        Point(i + 1, 10.0 * (i + 1), 100 * (i + 1), 2.0 * (i + 1), {"centre": {metric: value}})
        for i, value in enumerate(values)
    ]
    run = dataclasses.replace(trial.facts.run, seed=seed)
    directory = trial.directory.with_name(f"seed-{seed}")
    facts = dataclasses.replace(trial.facts, run=run)
    return dataclasses.replace(trial, points=tuple(points), facts=facts, directory=directory, at_sites={})


def compared(*trials: Trial, target: float | None = None, metric: str | None = None) -> Comparison:
    return compare_found(Found(trials, ()), target=target, metric=metric)


@pytest.fixture(scope="module")
def trial(run: Path) -> Trial:
    return read_trial(run)


def test_final_figures_are_those_of_the_last_models(sweep: Path, comparison: Comparison) -> None:
    assert (comparison.metric, comparison.place) == ("accuracy", "centre")
    for line in comparison.lines:
        trials = [trial for trial in find(sweep).trials if trial.facts.run.strategy == line.variant.label]
        last = [trial.points[-1] for trial in trials]
        accuracy = [point.metrics["centre"]["accuracy"] for point in last]
        assert line.final["accuracy"].mean == pytest.approx(statistics.mean(accuracy))
        assert line.final["accuracy"].std == pytest.approx(statistics.stdev(accuracy))
        assert line.size_bytes == Stat.of(point.size_bytes for point in last)
        assert line.simulated_s == Stat.of(point.at_s for point in last)
        assert line.energy_j == Stat.of(point.energy_j for point in last)
        worst = [fair.worst_decile for trial in trials if (fair := trial.fairness("accuracy"))]
        assert line.worst_decile == Stat.of(worst)
        assert len(worst) == 2


def test_a_value_is_reached_in_the_first_round_that_is_as_good(trial: Trial) -> None:
    one = curve(trial, [0.2, 0.6, 0.5, 0.8])
    for target, number in ((0.1, 1), (0.2, 1), (0.21, 2), (0.6, 2), (0.61, 4)):
        point = first(one, "centre", "accuracy", target)
        assert point
        assert point.round == number
    assert first(one, "centre", "accuracy", 0.81) is None
    loss = curve(trial, [2.0, 0.5, 1.0], metric="loss")
    point = first(loss, "centre", "loss", 0.7)
    assert point
    assert point.round == 2


def test_the_price_is_a_mean_over_the_seeds_that_got_there(trial: Trial) -> None:
    (variant,) = variants([curve(trial, [0.5, 0.9]), curve(trial, [0.9], seed=2), curve(trial, [0.1], seed=3)])
    price = reached(variant, "centre", "accuracy", 0.9)
    assert price.count == 2
    assert price.rounds == Stat(1.5, math.sqrt(0.5), 1, 2, 2)
    assert price.size_bytes is not None
    assert price.size_bytes.mean == 150
    assert price.at_s is not None
    assert price.at_s.mean == 15
    assert price.energy_j is not None
    assert price.energy_j.mean == 3
    assert prices(price, of=3) == ("1.5 ± 0.7 (2 of 3)", "150 ± 71 B", "15.0 ± 7.1 s", "3 ± 1 J")


def test_without_a_target_the_best_is_taken_that_all_runs_reached(trial: Trial) -> None:
    found = compared(curve(trial, [0.5, 0.9, 0.4]), curve(trial, [0.7, 0.6], seed=2), curve(trial, [], seed=3))
    assert found.target == 0.7
    assert not found.is_given
    (line,) = found.lines
    assert line.reached
    assert line.reached.count == 2
    losses = [curve(trial, [2.0, 1.0], metric="loss"), curve(trial, [3.0, 1.5, 4.0], seed=2, metric="loss")]
    assert best_common(losses, "centre", "loss") == 1.5


def test_time_that_is_not_simulated_is_in_no_figure(untimed: Path) -> None:
    (line,) = compare(untimed).lines
    assert line.simulated_s is None
    assert line.energy_j is None
    assert line.reached
    assert line.reached.count == 1
    assert line.reached.at_s is None


def test_a_diverged_seed_is_in_no_mean(trial: Trial) -> None:
    (line,) = compared(curve(trial, [0.5, 0.9]), curve(trial, [0.5, math.nan], seed=2)).lines
    assert line.final["accuracy"] == Stat(0.9, 0.0, 0.9, 0.9, 1)
    assert of_metric("accuracy", line.final["accuracy"], of=2) == "90.0 % (1 of 2)"


def test_the_best_variant_is_that_with_the_best_mean(comparison: Comparison, sweep: Path) -> None:
    means = {line.variant.label: line.final["accuracy"].mean for line in comparison.lines}
    assert comparison.best
    assert means[comparison.best.variant.label] == max(means.values())
    by_loss = compare(sweep, metric="loss")
    losses = {line.variant.label: line.final["loss"].mean for line in by_loss.lines}
    assert by_loss.best
    assert losses[by_loss.best.variant.label] == min(losses.values())


def test_a_metric_that_nobody_measured_and_a_target_out_of_reach_are_refused(sweep: Path) -> None:
    with pytest.raises(ConfigError, match="no run measured f1") as raised:
        compare(sweep, metric="f1")
    assert raised.value.hint == "one of: accuracy, loss"
    with pytest.raises(ConfigError, match="accuracy cannot reach 90") as raised:
        compare(sweep, target=90)
    assert raised.value.hint == "a share: 0.9 for 90 %"
    assert compare(sweep, metric="loss", target=90).target == 90


def test_runs_that_measured_nothing_yet_are_compared_by_nothing(trial: Trial) -> None:
    found = compared(curve(trial, []))
    assert (found.metric, found.place, found.target, found.best) == (None, None, None, None)
    assert rows(found)[1][0][:2] == ["small-strategy-fedavg", 1]


def test_the_table_for_spreadsheets_has_a_mean_and_a_deviation_a_figure(comparison: Comparison) -> None:
    columns, table = rows(comparison)
    assert len({len(columns), *map(len, table)}) == 1
    (fedadam, _) = (dict(zip(columns, row, strict=True)) for row in table)
    assert fedadam["variant"] == "fedadam"
    assert fedadam["strategy.server_learning_rate"] == 0.03
    line = comparison.lines[0]
    assert (fedadam["accuracy"], fedadam["accuracy_std"]) == (line.final["accuracy"].mean, line.final["accuracy"].std)
    assert line.reached
    assert line.reached.size_bytes
    assert fedadam["reach_size_bytes"] == line.reached.size_bytes.mean


def test_as_json_every_number_is_finite(comparison: Comparison, trial: Trial) -> None:
    for one in (comparison, compared(curve(trial, [math.nan])), compared(curve(trial, []))):
        json.dumps(as_dict(one), allow_nan=False)
    told = as_dict(comparison)["variants"][1]
    assert (told["variant"], told["seeds"], told["statuses"]) == ("fedavg", [1, 2], ["completed", "completed"])


@pytest.mark.parametrize(
    ("values", "text"),
    [([0.5], "50.0 %"), ([0.5, 0.5], "50.0 %"), ([0.5, 0.50001], "50.0 %"), ([0.5, 0.6], "55.0 ± 7.1 %"), ([], "–")],
)
def test_a_share_over_seeds_is_told_in_per_cent(values: list[float], text: str) -> None:
    assert of_metric("accuracy", Stat.of(values)) == text


def test_other_figures_are_as_exact_as_their_deviation() -> None:
    assert of_metric("loss", Stat.of([1.0, 1.2])) == "1.10 ± 0.14"
    assert of_metric("loss", Stat.of([100.0, 300.0])) == "200 ± 141"
    assert of_metric("loss", Stat.of([1.0, 1.0 + 1e-9])) == "1 ± 7.071e-10"
    assert of_size(Stat.of([3 << 20, 3 << 20])) == "3.0 MiB"
    assert of_size(Stat.of([0, 0])) == "0 B"
