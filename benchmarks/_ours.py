"""The simulator at a workload: ``python -m benchmarks._ours NAME ROUNDS DIRECTORY``, then what it did as a schedule."""

from __future__ import annotations

import contextlib
import json
import logging
import sys
import time
from pathlib import Path

import numpy as np
import torch

from benchmarks._sites import Bench
from benchmarks._workloads import WORKLOADS, Schedule, model
from fl.arrays import ArrayFile, Layout, flat_blocks, write_arrays
from fl.rounds import checkpoint, events
from fl.rounds.journal import read
from fl.tasks import parameters
from simulations import Progress, Scenario, simulate

LONG = 2000
"""Rounds of the run that is measured; it is left after a few, so that the engine chooses as for a long one."""


class EnoughError(Exception):
    pass


def ours(name: str, rounds: int, directory: Path) -> None:
    work = WORKLOADS[name]
    torch.manual_seed(0)
    net = model(name)
    arrays = parameters.get(net)
    directory.mkdir(parents=True)
    write_arrays(directory / "start.safetensors", Layout.of(arrays), flat_blocks(arrays))
    torch.save(net.state_dict(), directory / "start.pt")
    at = time.perf_counter()
    seconds: list[float] = []

    def tell(progress: Progress) -> None:
        nonlocal at
        seconds.append(-at + (at := time.perf_counter()))
        if progress.round == rounds:
            raise EnoughError

    scenario = Scenario.from_dict({
        "task": {"name": f"{Bench.__module__}:Bench", "workload": name},
        "run": {"rounds": LONG, "initial_model": str(directory / "start.safetensors")},
        "population": {"sites": work.sites},
        "round": {"cohort": work.cohort},
        "training": {
            "epochs": work.epochs,
            "batch_size": work.batch,
            "learning_rate": work.rate,
            "momentum": 0.0,
            "device": "cpu",
        },
        "evaluation": {"sites_every": 0, "centre_every": 0},
    })  # fmt: skip
    with contextlib.suppress(EnoughError):
        simulate(scenario, directory / "run", progress=tell, search_path=Path.cwd())
    opened = [record.event for record in read(directory / "run") if isinstance(record.event, events.RoundOpened)]
    schedule = Schedule(name, [(it.seed, list(it.cohort)) for it in opened[:rounds]], str(directory / "start.pt"))
    schedule.write(directory / "schedule.json")
    with ArrayFile(checkpoint.model_path(directory / "run", rounds)) as file:
        final = torch.from_numpy(np.array(file.vector_P))
    engine = json.loads((directory / "run" / "engine.json").read_text())
    torch.save({"seconds": seconds, "model": final, "engine": engine}, directory / "ours.pt")


if __name__ == "__main__":
    logging.basicConfig(level=logging.WARNING)
    logging.getLogger("simulations.engine").setLevel(logging.INFO)
    ours(sys.argv[1], int(sys.argv[2]), Path(sys.argv[3]))
