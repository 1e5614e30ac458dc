"""A task made of whatever model a test is about, and the two ways of training it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

from fl.arrays import F32, Layout, vector_of
from fl.rounds.port import Reply, Request
from fl.rounds.site import Worker
from fl.tasks import Site, Task, TrainingConfig
from fl.tasks.loop import initial_arrays
from simulations.engine.sequential import Sequential
from simulations.engine.vectorised.executor import Vectorised
from simulations.engine.vectorised.program import Program, program_for
from simulations.engine.work import Job, Model

CPU = torch.device("cpu")


@dataclasses.dataclass(frozen=True)
class MadeUp(Task):
    """Random examples in three classes; a site's number says how many it has."""

    make: Callable[[], nn.Module] = lambda: nn.Sequential(nn.Linear(6, 3))
    shape: tuple[int, ...] = (6,)
    words: int = 0
    sizes: tuple[int, ...] = (7, 12, 3, 12, 10)

    def model(self) -> nn.Module:
        return self.make()

    def train_data(self, site: Site) -> TensorDataset:
        random = torch.Generator().manual_seed(1000 + site.partition_id)
        number = self.sizes[site.partition_id]
        inputs = (
            torch.randint(self.words, (number, *self.shape), generator=random)
            if self.words
            else torch.randn(number, *self.shape, generator=random)
        )
        return TensorDataset(inputs, torch.randint(3, (number,), generator=random))

    def evaluation_data(self, site: Site) -> TensorDataset:
        return self.train_data(site)


@dataclasses.dataclass(frozen=True)
class Counting(MadeUp):
    """Measures something of its own."""

    def metrics(self, outputs: Any, targets: torch.Tensor) -> dict[str, float]:
        return {"ones": (targets == 1).float().mean().item()}


@dataclasses.dataclass(frozen=True)
class OneIsHuge(MadeUp):
    """The inputs of the second site are so large that its training diverges."""

    def train_data(self, site: Site) -> TensorDataset:
        inputs, targets = super().train_data(site).tensors
        return TensorDataset(inputs * (1e30 if site.partition_id == 1 else 1), targets)


def alone(task: Task, training: TrainingConfig) -> Sequential:
    return Sequential(lambda site: Worker(task, training, site))


def jobs_of(task: MadeUp, **options: float) -> list[Job]:
    request = Request(phase="train", round=1, attempt=1, seed=7, options=options)
    return [Job(Site(f"site-{number}", partition_id=number), request) for number in range(len(task.sizes))]


def start_of(task: Task) -> Model:
    arrays = initial_arrays(task, 3)
    return Model(Layout.of(arrays), vector_of(arrays))


def kept(replies: Any) -> list[Reply]:
    """Replies whose arrays outlast the next one."""
    return [
        dataclasses.replace(reply, arrays=reply.arrays and {name: array.copy() for name, array in reply.arrays.items()})
        for reply in replies
    ]


def vector(reply: Reply) -> F32:
    assert reply.failure is None, reply.failure
    assert reply.arrays is not None
    return vector_of(reply.arrays)


def side_by_side(task: Task, training: TrainingConfig, *, width: int = 8, of: Program | None = None) -> Vectorised:
    program, why = (of, "") if of else program_for(task, training, CPU)
    assert program, why
    return Vectorised(task, training, program, alone(task, training), width=width)


def distance(mine: Sequence[Reply], theirs: Sequence[Reply]) -> float:
    """How far updates are from others at most, as a share of their length."""
    assert [reply.site for reply in mine] == [reply.site for reply in theirs]
    pairs = [(vector(a), vector(b)) for a, b in zip(mine, theirs, strict=True)]
    return max(float(np.linalg.norm(a - b) / np.linalg.norm(b)) for a, b in pairs)


def same_metrics(mine: Sequence[Reply], theirs: Sequence[Reply], within: float = 1e-4) -> None:
    for a, b in zip(mine, theirs, strict=True):
        assert a.num_examples == b.num_examples
        assert dict(a.metrics) == pytest.approx(dict(b.metrics), rel=within, abs=within)
