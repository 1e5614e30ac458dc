"""The ways to train sites in whole runs: what is chosen is kept, and neither Ctrl-C nor a lost worker changes a bit."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fl.arrays import F32, ArrayFile
from fl.errors import ConfigError
from fl.rounds import checkpoint
from fl.rounds.journal import EVENTS, load_state, read
from simulations import Scenario, simulate
from simulations.engine.choose import FILE
from simulations.engine.config import EngineConfig

ROUNDS = 30
TABLES: dict[str, Any] = {
    "task": {"name": "digits", "network": "mlp"},
    "run": {"rounds": ROUNDS, "seed": 5},
    "training": {"batch_size": 8, "device": "cpu"},
    "round": {"cohort": 6},
    "evaluation": {"sites_every": 0},
    "population": {"sites": 30},
    "split": {"kind": "dirichlet"},
}
RUN = """
import json, sys
from pathlib import Path
from simulations import Scenario, simulate

if __name__ == "__main__":
    simulate(Scenario.from_dict(json.loads(sys.argv[1])), Path(sys.argv[2]))
"""


def scenario(rounds: int = 3, **engine: Any) -> Scenario:
    return Scenario.from_dict({**TABLES, "run": {"rounds": rounds, "seed": 5}, "engine": engine})


def model_of(directory: Path, rounds: int) -> F32:
    with ArrayFile(checkpoint.model_path(directory, rounds)) as file:
        return np.array(file.vector_P)


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def test_every_mode_gives_the_same_model(tmp_path: Path) -> None:
    for mode in ("sequential", "pool", "vectorised"):
        simulate(scenario(mode=mode, workers=2 if mode == "pool" else 1), tmp_path / mode)
        assert json.loads((tmp_path / mode / FILE).read_text())["mode"] == mode
    one = model_of(tmp_path / "sequential", 3)
    assert np.array_equal(model_of(tmp_path / "pool", 3), one)
    assert np.linalg.norm(model_of(tmp_path / "vectorised", 3) - one) < 1e-5 * np.linalg.norm(one)


def test_a_journals_scenario_trains_in_the_way_that_was_chosen(tmp_path: Path) -> None:
    simulate(scenario(), tmp_path / "first")
    chosen = Scenario.from_journal(tmp_path / "first").engine
    assert chosen == EngineConfig(mode="sequential")  # so short a run is not tried out
    record = {"mode": "vectorised", "width": 4, "compile": False}
    (tmp_path / "first" / FILE).write_text(json.dumps(record))
    simulate(Scenario.from_journal(tmp_path / "first"), tmp_path / "second")
    kept = json.loads((tmp_path / "second" / FILE).read_text())
    assert {key: kept[key] for key in record} == record


def test_exact_refuses_the_way_whose_last_digits_differ(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="vectorised"):
        simulate(scenario(mode="vectorised"), tmp_path / "run", exact=True)


@pytest.mark.slow
@pytest.mark.parametrize("disturbance", ["Ctrl-C", "a killed worker"])
def test_a_disturbed_run_with_workers_ends_with_the_model_of_an_undisturbed_one(
    tmp_path: Path, disturbance: str
) -> None:
    pooled = scenario(ROUNDS, mode="pool", workers=2)
    directory = tmp_path / "run"
    argv = [sys.executable, "-c", RUN, json.dumps(pooled.to_dict()), str(directory)]
    process = subprocess.Popen(argv, stderr=subprocess.PIPE, text=True, start_new_session=True)
    workers: list[int] = []
    try:
        while not (directory / EVENTS).exists() or load_state(directory).committed_rounds < 3:
            assert process.poll() is None, process.communicate()[1]
            time.sleep(0.01)
        workers = children(process.pid)
        assert len(workers) == 2
        if disturbance == "Ctrl-C":
            os.killpg(process.pid, signal.SIGINT)
        else:
            os.kill(workers[0], signal.SIGKILL)
        told = process.communicate(timeout=100)[1]
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    for worker in workers:
        assert not Path(f"/proc/{worker}").exists()
    if disturbance == "Ctrl-C":
        assert process.returncode != 0
        assert [record.seq for record in read(directory)] == list(range(len(read(directory))))
        simulate(Scenario.from_journal(directory), directory)
    else:
        assert process.returncode == 0, told
        assert "died (SIGKILL): what it did is done again" in told
    simulate(scenario(ROUNDS, mode="sequential"), tmp_path / "whole")
    assert np.array_equal(model_of(directory, ROUNDS), model_of(tmp_path / "whole", ROUNDS))


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_ten_sites_train_a_model_of_a_hundred_million_parameters(tmp_path: Path) -> None:
    tables = {
        "task": {"name": "benchmarks._sites:Bench", "parameters": 100_000_000},
        "run": {"rounds": 1},
        "training": {"batch_size": 15, "momentum": 0.0, "device": "cpu"},
        "evaluation": {"sites_every": 0},
        "population": {"sites": 10},
    }
    root = Path(__file__).parents[3]
    state = simulate(Scenario.from_dict(tables), tmp_path / "run", search_path=root)
    assert state.status == "completed"
    assert len(model_of(tmp_path / "run", 1)) > 99_999_000
