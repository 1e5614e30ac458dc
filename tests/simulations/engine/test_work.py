"""How jobs are grouped."""

from __future__ import annotations

from typing import Any

import pytest

from simulations.engine.work import BLOCK, groups


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
