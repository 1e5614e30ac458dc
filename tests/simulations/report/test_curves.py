"""Lines over seeds, and what lies around them."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from simulations.report.curves import MOST_LINES, drawn_of, panels, spread
from simulations.report.find import find
from simulations.report.trial import Point, Trial, read_trial
from simulations.report.variants import Variant, variants


@pytest.fixture(scope="module")
def trial(run: Path) -> Trial:
    return read_trial(run)


def seeds(
    trial: Trial,
    *curves: list[tuple[float, float]],
    label: str = "fedavg",
    metric: str = "accuracy",
    status: str = "completed",
) -> Variant:
    """A variant with a run a curve, each of times and accuracies."""
    runs = []
    for seed, curve in enumerate(curves, 1):
        points = [
            Point(i + 1, at_s, round(1000 * at_s), 0.0, {"centre": {metric: value}})
            for i, (at_s, value) in enumerate(curve)
        ]
        facts = dataclasses.replace(trial.facts, run=dataclasses.replace(trial.facts.run, seed=seed, status=status))
        directory = trial.directory.with_name(f"{label}-{seed}")
        runs.append(dataclasses.replace(trial, points=tuple(points), facts=facts, directory=directory))
    return Variant(label, tuple(runs), {})


def test_by_round_a_line_is_the_mean_and_its_bands_the_ends_and_the_deviation(trial: Trial) -> None:
    variant = seeds(trial, [(1, 0.1), (2, 0.5)], [(1, 0.3), (2, 0.9)])
    (line,) = panels([("v0", variant)], "centre", "accuracy")[0].series
    assert line.name == "fedavg (mean of 2 seeds)"
    assert line.values == pytest.approx([0.2, 0.7])
    ends, deviation = line.bands
    assert (ends.lowest, ends.highest) == ((0.1, 0.5), (0.3, 0.9))
    assert deviation.lowest == pytest.approx([0.2 - np.std([0.1, 0.3], ddof=1), 0.7 - np.std([0.5, 0.9], ddof=1)])


def test_a_round_that_only_some_seeds_have_is_not_drawn(trial: Trial) -> None:
    variant = seeds(trial, [(1, 0.1), (2, 0.5), (3, 0.6)], [(1, 0.3), (2, 0.9)], status="running")
    (line,) = panels([("v0", variant)], "centre", "accuracy")[0].series
    assert line.values == [pytest.approx(0.2), pytest.approx(0.7), None]


def test_one_seed_has_no_bands_and_its_own_name(trial: Trial) -> None:
    (line,) = panels([("v0", seeds(trial, [(1, 0.1), (2, 0.5)]))], "centre", "accuracy")[0].series
    assert (line.name, list(line.values), list(line.bands)) == ("fedavg", [0.1, 0.5], [])


def test_along_time_one_seed_has_a_value_where_it_was_measured_and_nowhere_else(trial: Trial) -> None:
    one = seeds(trial, [(1.0, 0.1), (4.0, 0.5)])
    other = seeds(trial, [(2.0, 0.3), (3.0, 0.4)], label="median")
    panel = panels([("v0", one), ("v1", other)], "centre", "accuracy")[1]
    assert panel.columns == [1.0, 2.0, 3.0, 4.0]
    assert [list(line.values) for line in panel.series] == [[0.1, None, None, 0.5], [None, 0.3, 0.4, None]]


def test_a_loss_that_ran_away_does_not_hide_the_others_and_the_chart_says_so(trial: Trial) -> None:
    def losses(label: str, *values: float) -> Variant:
        curve = [(float(i), value) for i, value in enumerate(values, 1)]
        return seeds(trial, curve, label=label, metric="loss")

    good, bad, lost = losses("good", 2.0, 1.0, 0.5), losses("bad", 2.0, 9.0, 1e6), losses("lost", 1e9, 1e9, 1e9)
    (panel, *_) = panels([("v0", good), ("v1", bad), ("v2", lost)], "centre", "loss")
    assert [(line.name, list(line.values)) for line in panel.series] == [
        ("good", [2.0, 1.0, 0.5]),
        ("bad", [2.0, 9.0, None]),
    ]
    assert panel.chart().note == "above 10 nothing is drawn: bad, lost"
    (panel, *_) = panels([("v0", good)], "centre", "loss")
    assert panel.chart().note == ""


def test_along_time_a_seed_that_is_done_keeps_its_last_value_and_one_that_is_not_ends_the_line(trial: Trial) -> None:
    curves = [(1.0, 0.2), (2.0, 0.4)], [(2.0, 0.6), (10.0, 1.0)]
    done, going = seeds(trial, *curves), seeds(trial, *curves, status="running")
    for variant, end, value in ((done, 10.0, 0.7), (going, 2.0, 0.5)):
        panel = panels([("v0", variant)], "centre", "accuracy")[1]
        (line,) = panel.series
        assert panel.along.name == "simulated time"
        drawn = [(at, mean) for at, mean in zip(panel.columns, line.values, strict=True) if mean is not None]
        assert drawn[0][0] >= 2.0
        assert drawn[-1][0] <= end
        assert drawn[-1][1] == pytest.approx(value, abs=0.05)


@given(st.lists(st.lists(st.floats(0, 1), min_size=1, max_size=6), min_size=1, max_size=4))
def test_bands_lie_around_their_line_wherever_it_is(trial: Trial, curves: list[list[float]]) -> None:
    timed = [
        [(1.0 + 0.7 * i + 0.1 * seed, value) for i, value in enumerate(curve)] for seed, curve in enumerate(curves)
    ]
    for panel in panels([("v0", seeds(trial, *timed))], "centre", "accuracy"):
        assert list(panel.columns) == sorted(set(panel.columns))
        for line in panel.series:
            assert any(value is not None for value in line.values)
            for band in line.bands:
                for value, low, high in zip(line.values, band.lowest, band.highest, strict=True):
                    assert (value is None) == (low is None) == (high is None)
                    if value is not None and low is not None and high is not None:
                        assert low - 1e-9 <= value <= high + 1e-9
        assert panel.chart().shapes


def test_time_is_drawn_only_if_it_is_simulated(sweep: Path, untimed: Path) -> None:
    def along(directory: Path, place: str) -> list[str]:
        drawn = [("v0", variant) for variant in variants(find(directory).trials)]
        return [panel.along.name for panel in panels(drawn, place, "accuracy")]  # type: ignore[arg-type]

    assert along(sweep, "centre") == ["round", "simulated time", "traffic"]
    assert along(untimed, "training") == ["round", "traffic"]
    assert along(untimed, "centre") == []


def test_of_too_many_variants_the_best_have_a_colour_of_their_own(trial: Trial) -> None:
    many = [seeds(trial, [(1, number / 20)], label=str(number)) for number in (7, 3, 1, 9, 2, 4, 5, 6, 8, 10)]
    drawn = drawn_of(many, "centre", "accuracy")
    assert [variant.label for _, variant in drawn] == ["7", "3", "9", "4", "5", "6", "8", "10"]
    assert [key for key, _ in drawn] == [f"v{number}" for number in range(MOST_LINES)]


def test_the_spread_is_over_the_honest_sites_of_all_seeds(trial: Trial) -> None:
    def at_sites(values: list[float]) -> Trial:
        sites = {f"site-{i}": {"accuracy": value} for i, value in enumerate(values)}
        return dataclasses.replace(trial, at_sites={3: {**sites, "bad": {"accuracy": 0.0}}}, hostile={"bad": "scale"})

    variant = Variant("fedavg", (at_sites([0.1, 0.2, 0.3]), at_sites([0.4, 0.5])), {})
    chart = spread(variant, "accuracy")
    assert chart
    rows = chart.hover["rows"]
    assert isinstance(rows, list)
    (_, _, (median,)), (_, _, (worst,)) = rows
    assert median.startswith("30.0 % (10.0 % to 50.0 % at all sites)")
    assert worst == "14.0 %"
    assert spread(dataclasses.replace(variant, trials=(dataclasses.replace(trial, at_sites={}),)), "accuracy") is None
