from __future__ import annotations

import doctest
import math
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fl.report import charts, words
from fl.report.charts import HEIGHT, WIDTH, Band, Series


def line(*values: float | None, bands: tuple[Band, ...] = ()) -> Series:
    return Series("training", "training at the sites", values, bands)


def number(value: float | None) -> str:
    return words.metric("loss", value)


def test_the_examples_of_the_words_hold() -> None:
    result = doctest.testmod(words)
    assert result.attempted
    assert not result.failed


def test_ticks_are_round_numbers_around_the_values() -> None:
    chart = charts.lines("loss", [1, 2, 3], [line(0.13, 0.52, 1.87)], number)
    assert [tick.label for tick in chart.y_ticks] == ["0", "0.5", "1", "1.5", "2"]
    assert [tick.label for tick in chart.x_ticks] == ["1", "2", "3"]


def test_ticks_of_sizes_are_round_in_their_unit() -> None:
    units = [1024.0**power for power in range(4)]
    chart = charts.bars("traffic", [1, 2], [line(3.1 * 2**20, 2**20)], words.size, units=units)
    assert [tick.label for tick in chart.y_ticks] == ["0", "1 MiB", "2 MiB", "3 MiB", "4 MiB"]


def test_a_loss_that_is_not_finite_leaves_a_gap() -> None:
    chart = charts.lines("loss", [1, 2, 3, 4, 5], [line(2.0, 1.0, math.nan, 1.0, 0.5)], number)
    (drawn,) = chart.shapes
    assert drawn.path.count("M") == 2
    assert "not finite" in chart.hover["rows"][0][2]


def test_rounds_without_an_evaluation_are_bridged() -> None:
    chart = charts.lines("loss", [1, 2, 3, 4], [line(None, 2.0, None, 1.0)], number)
    (drawn,) = chart.shapes
    assert drawn.path.count("M") == 1
    assert drawn.path.count("L") == 1
    assert len(drawn.dots) == 2


def test_the_summary_says_where_a_line_begins_and_ends() -> None:
    chart = charts.lines("loss", [1, 2, 3], [line(2.5, 1.0, 0.25)], number)
    assert "training at the sites: from 2.5 in round 1 to 0.25 in round 3." in chart.summary


def test_one_outlier_among_sites_does_not_squash_the_line() -> None:
    band = Band([0.5, 0.4], [3.0, 1e9])
    chart = charts.lines("loss", [1, 2], [line(2.0, 1.0, bands=(band,))], number)
    assert [tick.label for tick in chart.y_ticks][-1] == "3"


@pytest.mark.parametrize("count", [1, 2, charts.MOST_BARS, charts.MOST_BARS + 1, 1000])
def test_many_rounds_share_bars_and_say_so(count: int) -> None:
    chart = charts.bars("sites asked", list(range(1, count + 1)), [line(*[4.0] * count)], words.count, whole=True)
    (drawn,) = chart.shapes
    assert 1 <= drawn.path.count("M") <= charts.MOST_BARS
    assert bool(chart.note) == (count > charts.MOST_BARS)
    assert set(chart.hover["rows"][0][2]) == {"4"}


def test_a_long_line_keeps_its_first_and_last_round() -> None:
    numbers = list(range(1, 5001))
    chart = charts.lines("loss", numbers, [line(*[1 / n for n in numbers])], number)
    assert chart.note == "every 5th round is drawn"
    assert (chart.hover["head"][0], chart.hover["head"][-1]) == ("round 1", "round 5000")


VALUES = st.none() | st.floats(allow_nan=True, allow_infinity=True) | st.floats(-1e6, 1e6)


@given(st.lists(VALUES, min_size=1, max_size=30))
def test_whatever_the_values_everything_is_drawn_inside_the_box(values) -> None:
    finite = [value if value is None or abs(value) < 1e300 else math.inf for value in values]
    chart = charts.lines("loss", list(range(1, len(values) + 1)), [line(*finite)], number)
    for shape in chart.shapes:
        for x, y in re.findall(r"[ML](-?[\d.]+) (-?[\d.]+)", shape.path):
            assert 0 <= float(x) <= WIDTH
            assert 0 <= float(y) <= HEIGHT
    assert 1 <= len(chart.y_ticks) <= 12
