"""The workloads of the simulator's benchmark: the same data, model and batch order for every engine.

Needs torch and ``fl.seeding`` only, so that other engines, in an environment of their own, can import it.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import os
import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from fl import seeding


@dataclasses.dataclass(frozen=True)
class Workload:
    """How much of what is trained.

    Attributes:
        sites: In all.
        cohort: In a round.
        examples: Of a site.
        shape: Of an example.
        rate: Learning rate; so low that rounding errors do not grow from step to step.
    """

    sites: int
    cohort: int
    examples: int
    batch: int
    epochs: int
    shape: tuple[int, ...]
    rate: float = 0.05


WORKLOADS = {
    "w1": Workload(sites=100, cohort=10, examples=15, batch=5, epochs=5, shape=(64,)),
    "w2": Workload(sites=1000, cohort=50, examples=50, batch=10, epochs=1, shape=(1, 28, 28), rate=0.01),
    "w3": Workload(sites=100, cohort=10, examples=500, batch=50, epochs=1, shape=(3, 32, 32), rate=0.01),
}


def model(name: str) -> nn.Module:
    """MLP 64-64-10, CNN of 87 k and of 1.2 M parameters."""
    if name == "w1":
        return nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
    channels, middle, width, hidden = (1, 16, 32 * 7 * 7, 52) if name == "w2" else (3, 32, 64 * 8 * 8, 280)
    return nn.Sequential(
        nn.Conv2d(channels, middle, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(middle, 2 * middle, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(width, hidden),
        nn.ReLU(),
        nn.Linear(hidden, 10),
    )


DATA = "FEDFLEET_BENCHMARK_DATA"
"""Environment variable: where ``write_data`` put the examples, so that no engine makes them while its time is taken."""


def write_data(name: str, directory: Path) -> None:
    """The examples of all sites as a file."""
    work = WORKLOADS[name]
    inputs = torch.empty(work.sites, work.examples, *work.shape)
    targets = torch.empty(work.sites, work.examples, dtype=torch.int64)
    for site in range(work.sites):
        inputs[site], targets[site] = made(name, site)
    torch.save((inputs, targets), directory / f"{name}.pt")


@functools.lru_cache(maxsize=1)
def _written(path: Path) -> tuple[Tensor, Tensor]:
    inputs, targets = torch.load(path, mmap=True)
    return inputs, targets


def data(name: str, site: int) -> tuple[Tensor, Tensor]:
    """A site's examples."""
    if DATA not in os.environ:
        return made(name, site)
    inputs, targets = _written(Path(os.environ[DATA]) / f"{name}.pt")
    return inputs[site], targets[site]


def made(name: str, site: int) -> tuple[Tensor, Tensor]:
    """A site's examples: noise around one of ten patterns."""
    work = WORKLOADS[name]
    patterns = torch.randn(10, *work.shape, generator=torch.Generator().manual_seed(1))
    own = torch.Generator().manual_seed(1000 + site)
    targets = torch.randint(10, (work.examples,), generator=own)
    return patterns[targets] + torch.randn(work.examples, *work.shape, generator=own), targets


def order(name: str, seed: int, site: str) -> Tensor:
    """The order of a site's examples in all epochs of a round, as ``fl.tasks.loop`` draws it."""
    work = WORKLOADS[name]
    generator = torch.Generator().manual_seed(seeding.derive(seeding.derive(seed, site), "order"))
    return torch.cat([torch.randperm(work.examples, generator=generator) for _ in range(work.epochs)])


def train(name: str, net: nn.Module, seed: int, site: str) -> None:
    """What a good client does: a tight loop of plain SGD."""
    work = WORKLOADS[name]
    inputs, targets = data(name, int(site.rpartition("-")[2]) - 1)
    optimiser = torch.optim.SGD(net.parameters(), lr=work.rate)
    for some in order(name, seed, site).split(work.batch):
        optimiser.zero_grad()
        functional.cross_entropy(net(inputs[some]), targets[some]).backward()
        optimiser.step()


@dataclasses.dataclass(frozen=True)
class Schedule:
    """Who trains when.

    Attributes:
        name: Of the workload.
        rounds: The seed and the sites of each round.
        start: File of the initial parameters.
    """

    name: str
    rounds: list[tuple[int, list[str]]]
    start: str

    def write(self, path: Path) -> None:
        """As a file for the other engines."""
        path.write_text(json.dumps(dataclasses.asdict(self)))

    @classmethod
    def read(cls, path: Path) -> Schedule:
        """From such a file."""
        tables: dict[str, Any] = json.loads(path.read_text())
        return cls(tables["name"], [(seed, sites) for seed, sites in tables["rounds"]], tables["start"])

    def begin(self) -> nn.Module:
        """The model with the initial parameters."""
        net = model(self.name)
        net.load_state_dict(torch.load(self.start))
        return net


if __name__ == "__main__":
    write_data(sys.argv[1], Path(sys.argv[2]))
