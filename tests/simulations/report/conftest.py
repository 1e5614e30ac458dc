"""Simulations that took place, for what is read from them."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest

from simulations import Scenario, simulate

SCENARIO: dict[str, Any] = {
    "task": {"name": "digits", "network": "mlp"},
    "run": {"rounds": 4, "seed": 1, "name": "small"},
    "training": {"batch_size": 8},
    "round": {"cohort": 5},
    "evaluation": {"centre_every": 1, "sites_every": 2},
    "population": {"sites": 12},
    "split": {"kind": "dirichlet", "alpha": 0.3},
    "devices": [{"name": "jetson"}],
    "links": [{"name": "dsl"}],
    "hostile": [{"kind": "free_rider", "share": 0.3}],
}
SWEEP = {"seeds": [1, 2], "strategy": [{"name": "fedavg"}, {"name": "fedadam", "server_learning_rate": 0.03}]}


def scenario(**changed: Any) -> Scenario:
    """The small one, with other tables; ``None`` takes one away."""
    tables = {**copy.deepcopy(SCENARIO), **changed}
    return Scenario.from_dict({name: table for name, table in tables.items() if table is not None})


@pytest.fixture(scope="session")
def sweep(tmp_path_factory) -> Path:
    """Two strategies with two seeds each, as ``fl sim sweep`` leaves them; nobody may change it."""
    directory = tmp_path_factory.mktemp("sims") / "strategies"
    directory.mkdir()
    for variant in scenario(sweep=SWEEP).variants():
        simulate(variant.scenario, directory / variant.name)
    return directory


@pytest.fixture(scope="session")
def run(sweep: Path) -> Path:
    """One run of the sweep."""
    return sweep / "strategy-fedavg_seed-1"


@pytest.fixture(scope="session")
def untimed(tmp_path_factory) -> Path:
    """A run without devices and links, evaluated nowhere."""
    directory = tmp_path_factory.mktemp("sims") / "untimed"
    simulate(scenario(devices=None, links=None, hostile=None, evaluation={"sites_every": 0}), directory)
    return directory
