from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fl.metrics import weighted_mean


def test_examples_weigh_sites():
    assert weighted_mean([(1, {"loss": 1.0}), (3, {"loss": 2.0})]) == {"loss": 1.75}


def test_a_metric_that_a_site_lacks_is_the_mean_of_the_others():
    reports = [(10, {"loss": 1.0, "accuracy": 0.5}), (30, {"loss": 3.0})]
    assert weighted_mean(reports) == {"accuracy": 0.5, "loss": 2.5}


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_value_that_is_not_finite_is_left_out(value):
    assert weighted_mean([(5, {"loss": value}), (1, {"loss": 2.0})]) == {"loss": 2.0}
    assert weighted_mean([(5, {"loss": value})]) == {}


def test_a_site_without_examples_says_nothing():
    assert weighted_mean([(0, {"loss": 9.0}), (2, {"loss": 1.0})]) == {"loss": 1.0}
    assert weighted_mean([(0, {"loss": 9.0})]) == {}
    assert weighted_mean([]) == {}


def test_names_come_sorted():
    assert list(weighted_mean([(1, {"b": 1.0, "a": 1.0}), (1, {"c": 1.0})])) == ["a", "b", "c"]


@given(st.lists(st.tuples(st.integers(1, 10**6), st.floats(-1e9, 1e9)), min_size=1, max_size=30))
def test_the_mean_of_sites_is_the_mean_of_all_their_examples(reports):
    mean = weighted_mean([(count, {"loss": value}) for count, value in reports])["loss"]
    expected = math.fsum(count * value for count, value in reports) / sum(count for count, _ in reports)
    assert mean == pytest.approx(expected, rel=1e-9, abs=1e-9 * max(abs(value) for _, value in reports))
    assert min(v for _, v in reports) - 1e-5 <= mean <= max(v for _, v in reports) + 1e-5
