"""How jobs are grouped."""

from __future__ import annotations

from typing import Any

import pytest

from simulations.engine.work import BLOCK, even_width, groups


def sizes(number: int, width: int) -> list[int]:
    jobs: Any = range(number)
    found = groups(jobs, width)
    assert [job for group in found for job in group] == list(jobs)
    return [len(group) for group in found]


@pytest.mark.parametrize(
    ("number", "width", "expected"),
    [(0, 4, []), (1, 4, [1]), (4, 4, [4]), (5, 4, [2, 3]), (50, 7, [6, 6, 6, 7, 6, 6, 6, 7]), (9, 1, [1] * 9)],
)
def test_groups_are_as_even_as_can_be(number: int, width: int, expected: list[int]) -> None:
    assert sizes(number, width) == expected


@pytest.mark.parametrize("calls", [1, 2, 3])
def test_groups_are_the_same_in_whatever_calls_whole_blocks_come(calls: int) -> None:
    jobs: Any = range(100)
    size = calls * BLOCK * 3
    in_parts = [group for start in range(0, 100, size) for group in groups(jobs[start : start + size], 3)]
    assert in_parts == groups(jobs, 3)


@pytest.mark.parametrize(
    ("sites", "widest", "processes", "width"),
    [
        (50, 8, 2, 5),  # ten groups of 5; in eight groups one process would have 26 sites
        (11, 8, 2, 6),  # 6 and 5, not 8 and 3
        (10, 64, 2, 5),
        (50, 8, 16, 4),
        (1000, 8, 2, 8),
        (3, 8, 4, 1),
        (7, 8, 1, 7),
    ],
)
def test_a_cohort_is_divided_so_that_the_busiest_process_has_the_least_to_do(
    sites: int, widest: int, processes: int, width: int
) -> None:
    assert even_width(sites, widest, processes) == width
