"""What becomes of a site's work: as often as asked, and the same for the same seed."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fl.errors import ConfigError
from simulations.faults import Fate, FaultConfig, fate

MANY = [(f"site-{site:03d}", number) for site in range(200) for number in range(1, 21)]
"""4,000 draws: a share of a half has a standard deviation of 0.008."""


def share(config: FaultConfig, what: str, seed: int = 1) -> float:
    return sum(bool(getattr(fate(config, seed, site, number, 1), what)) for site, number in MANY) / len(MANY)


def test_by_default_nothing_goes_wrong() -> None:
    assert all(fate(FaultConfig(), 1, site, number, 1) == Fate() for site, number in MANY[:50])


@pytest.mark.parametrize("chance", [0.05, 0.5, 0.9])
def test_sites_fall_silent_and_crash_as_often_as_asked(chance: float) -> None:
    assert share(FaultConfig(dropout=chance), "silent") == pytest.approx(chance, abs=0.04)
    assert share(FaultConfig(dropout=chance), "crashes") == 0
    assert share(FaultConfig(crash=chance), "crashes") == pytest.approx(chance, abs=0.04)
    assert share(FaultConfig(crash=chance), "silent") == 0


def test_certainties_are_certain() -> None:
    assert share(FaultConfig(dropout=1.0, crash=1.0), "silent") == 1
    assert share(FaultConfig(dropout=1.0, crash=1.0), "crashes") == 1


def test_a_straggler_is_one_in_every_round() -> None:
    config = FaultConfig(straggler_share=0.3, straggler_factor=8.0)
    slowdowns: dict[str, set[float]] = {}
    for site, number in MANY:
        slowdowns.setdefault(site, set()).add(fate(config, 1, site, number, 1).slowdown)
    assert set(map(frozenset, slowdowns.values())) == {frozenset({1.0}), frozenset({8.0})}
    slow = sum(factors == {8.0} for factors in slowdowns.values())
    assert slow == pytest.approx(60, abs=26)  # of 200: standard deviation 6.5


@given(jitter=st.floats(0.01, 1.0), seed=st.integers(0, 1000), round=st.integers(1, 50))
def test_jitter_stays_within_its_bound_and_changes_from_round_to_round(jitter: float, seed: int, round: int) -> None:
    config = FaultConfig(jitter=jitter)
    one, next_one = fate(config, seed, "site-1", round, 1).slowdown, fate(config, seed, "site-1", round + 1, 1).slowdown
    assert 1 - jitter <= one <= 1 + jitter
    assert one != next_one


@given(
    seed=st.integers(0, 1000),
    order=st.permutations([(site, number, attempt) for site in "ab" for number in (1, 2) for attempt in (1, 2)]),
)
def test_the_same_seed_gives_the_same_fates_in_whatever_order(seed: int, order: list[tuple[str, int, int]]) -> None:
    config = FaultConfig(dropout=0.5, crash=0.5, straggler_share=0.5, jitter=0.5)
    drawn = {asked: fate(config, seed, *asked) for asked in order}
    assert drawn == {asked: fate(config, seed, *asked) for asked in sorted(order)}


def test_another_attempt_is_another_chance() -> None:
    config = FaultConfig(dropout=0.5)
    first = [fate(config, 1, site, number, 1).silent for site, number in MANY]
    second = [fate(config, 1, site, number, 2).silent for site, number in MANY]
    assert sum(one and other for one, other in zip(first, second, strict=True)) / len(MANY) == pytest.approx(
        0.25, abs=0.04
    )


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"dropout": 1.1}, "faults.dropout is 1.1, must be at most 1"),
        ({"crash": -0.1}, "faults.crash is -0.1, must be at least 0"),
        ({"straggler_share": 2.0}, "faults.straggler_share is 2.0"),
        ({"straggler_factor": 0.5}, "faults.straggler_factor is 0.5, must be at least 1"),
        ({"jitter": float("nan")}, "faults.jitter is nan, must be a finite number"),
    ],
)
def test_faults_that_cannot_be_are_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        FaultConfig(**values)
