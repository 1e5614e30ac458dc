"""The scenarios that ship: whole, teaching at small size what they say, reaching at full size what they expect."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from fl.rounds import events
from fl.rounds.journal import read
from fl.tasks import registry
from simulations import Scenario, simulate
from simulations.outcome import Outcome
from simulations.scenario import shipped
from simulations.world import build

Figures = Mapping[str, float]
Settings = Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class Lesson:
    """What a scenario teaches: how it differs from the same with other settings.

    Attributes:
        small: Settings that make it small.
        other: Settings that make it the other one.
        shows: Whether the figures of the two differ as the scenario says.
    """

    small: Settings
    other: Settings
    shows: Callable[[Figures, Figures], bool]


def more(figure: str, by: float) -> Callable[[Figures, Figures], bool]:
    return lambda own, other: own[figure] > other[figure] + by


LESSONS: Mapping[str, Lesson] = {
    "first-steps": Lesson({"run.rounds": 3}, {"training.epochs": 1}, more("accuracy", 0.05)),
    "skewed-labels": Lesson(
        {"run.rounds": 5, "population.sites": 10}, {"strategy": {"name": "fedprox", "proximal_mu": 1.0}},
        more("accuracy", 0.02),
    ),
    "one-label-each": Lesson({"run.rounds": 20}, {"strategy": {"name": "median"}}, more("accuracy", 0.2)),
    "unequal-sizes": Lesson({"run.rounds": 4}, {"strategy": {"name": "median"}}, more("accuracy", 0.2)),
    "slow-hospitals": Lesson(
        {"run.rounds": 4}, {"round.over_selection": 0.0},
        lambda own, other: own["simulated_hours"] < 0.6 * other["simulated_hours"],
    ),
    "night-shift": Lesson(
        {"run.rounds": 14, "round.cohort": 6},
        {"round.min_online": 1},
        lambda own, other: own["simulated_hours"] > 22 and other["simulated_hours"] < 22,
    ),
    "flaky-links": Lesson(
        {"run.rounds": 6, "round.attempts": 20}, {"faults.dropout": 0.0},
        lambda own, other: own["simulated_hours"] > 1.5 * other["simulated_hours"]
        and own["accuracy"] > other["accuracy"] - 0.15,
    ),
    "hostile-sites": Lesson({"run.rounds": 4}, {"strategy": {"name": "fedavg"}}, more("accuracy", 0.2)),
    "secure-cohort": Lesson(
        {"run.rounds": 3, "population.sites": 7, "round.cohort": 6}, {"secagg.profile": "packed16"},
        lambda own, other: abs(own["accuracy"] - other["accuracy"]) < 0.05,
    ),
    "thousand-sites": Lesson({"run.rounds": 6, "round.cohort": 20}, {"training.epochs": 1}, more("accuracy", 0.1)),
}  # fmt: skip


def scenario(name: str) -> Scenario:
    return Scenario.from_file(shipped()[name])


def outcome_of(run: Scenario, directory: Path) -> Outcome:
    outcome = Outcome.of(directory, simulate(run, directory), run)
    assert outcome.status == "completed"
    return outcome


def test_ten_scenarios_ship_and_each_has_its_lesson() -> None:
    assert len(shipped()) == 10
    assert LESSONS.keys() == shipped().keys()


@pytest.mark.parametrize("name", shipped())
def test_a_scenario_says_what_it_teaches_and_what_it_expects(name: str) -> None:
    about = scenario(name).scenario
    assert scenario(name).config.run.name == name
    assert len(about.title) > 20
    assert len(about.teaches) > 40
    assert "accuracy" in about.expect


@pytest.mark.parametrize("name", shipped())
def test_its_sweep_holds_the_scenario_itself_beside_others(name: str) -> None:
    variants = scenario(name).variants()
    assert sum(bool(variant.scenario.scenario.expect) for variant in variants) == 1
    assert len(variants) >= 2


LONGER = ("night-shift", "one-label-each", "skewed-labels", "thousand-sites")


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow) if name in LONGER else name for name in shipped()]
)
def test_it_teaches_at_small_size_what_it_says(name: str, tmp_path: Path) -> None:
    lesson, full = LESSONS[name], scenario(name).unswept()
    own = outcome_of(full.changed(lesson.small), tmp_path / "own").figures
    other = outcome_of(full.changed({**lesson.small, **lesson.other}), tmp_path / "other").figures
    assert own["rounds"] == lesson.small["run.rounds"]
    assert full.scenario.expect.keys() <= own.keys()
    assert lesson.shows(own, other), (own, other)


def test_six_sites_are_hostile_whatever_the_seed() -> None:
    for seed in (1, 2, 3):
        world, _ = build(scenario("hostile-sites").changed({"run.seed": seed}), registry.create("digits", {}))
        assert sum(world.conspiracy.of(name) is not None for name in world.population.names) == 6


def test_some_sites_of_the_secure_cohort_are_lost_and_made_up_for(tmp_path: Path) -> None:
    outcome_of(scenario("secure-cohort").changed(LESSONS["secure-cohort"].small), tmp_path / "run")
    sums = [record.event for record in read(tmp_path / "run") if isinstance(record.event, events.SumLanded)]
    assert len(sums) == 3
    assert any(event.dropped for event in sums)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 11])
@pytest.mark.parametrize("name", shipped())
def test_it_reaches_at_full_size_what_it_expects(name: str, seed: int, tmp_path: Path) -> None:
    outcome_of(scenario(name).changed({"run.seed": seed}), tmp_path / "run").check()
