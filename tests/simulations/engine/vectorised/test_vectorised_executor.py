"""What happens to sites that cannot be trained side by side, and when memory runs out."""

from __future__ import annotations

import dataclasses
import logging
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

from fl.errors import TaskError
from fl.rounds.port import Request
from fl.tasks import Site, TrainingConfig
from simulations.engine.vectorised.batch import Batch
from simulations.engine.vectorised.executor import TOLERANCE
from simulations.engine.vectorised.program import Kernels, Parameters, program_for
from simulations.engine.work import Job
from tests.simulations.engine.vectorised import made_up
from tests.simulations.engine.vectorised.made_up import (
    CPU,
    Counting,
    MadeUp,
    OneIsHuge,
    alone,
    distance,
    kept,
    same_metrics,
    vector,
)

TRAINING = TrainingConfig(epochs=2, batch_size=5, device="cpu")


def mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Dropout(0.3), nn.Linear(8, 3))


class ByValue(nn.Module):
    """Python decides by a value: no two sites take the same way."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(6, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.layer(x if x.sum() > 0 else -x)
        return y


@dataclasses.dataclass(frozen=True)
class Uneven(MadeUp):
    """The third site has no data, the fourth wider pictures than the others."""

    def train_data(self, site: Site) -> TensorDataset:
        if site.partition_id == 2:
            raise TaskError("nothing here")
        if site.partition_id == 3:
            return TensorDataset(torch.zeros(4, 7), torch.zeros(4, dtype=torch.int64))
        return super().train_data(site)


def test_the_width_does_not_decide_what_comes_out() -> None:
    task = MadeUp(make=mlp)
    model, jobs = made_up.start_of(task), made_up.jobs_of(task)
    one, *others = (kept(made_up.side_by_side(task, TRAINING, width=width).execute(jobs, model)) for width in (1, 2, 5))
    for other in others:
        assert distance(other, one) < TOLERANCE


def test_the_same_work_gives_the_same_bits() -> None:
    task = MadeUp(make=mlp)
    model, jobs = made_up.start_of(task), made_up.jobs_of(task)
    executor = made_up.side_by_side(task, TRAINING, width=2)
    first, second = (kept(executor.execute(jobs, model)) for _ in range(2))
    assert distance(first, second) == 0


def test_a_site_that_cannot_join_the_others_answers_for_itself() -> None:
    task = Uneven(make=mlp)
    model, jobs = made_up.start_of(task), made_up.jobs_of(task)
    mine = kept(made_up.side_by_side(task, TRAINING).execute(jobs, model))
    theirs = kept(alone(task, TRAINING).execute(jobs, model))
    assert [reply.failure for reply in mine] == [reply.failure for reply in theirs]
    assert [reply.failure is None for reply in mine] == [True, True, False, False, True]
    working = [0, 1, 4]
    assert distance([mine[i] for i in working], [theirs[i] for i in working]) < TOLERANCE


def test_control_flow_of_python_is_trained_one_site_after_the_other_and_the_log_says_why(
    caplog: pytest.LogCaptureFixture,
) -> None:
    task = MadeUp(make=ByValue)
    model, jobs = made_up.start_of(task), made_up.jobs_of(task)
    executor = made_up.side_by_side(task, TRAINING)
    with caplog.at_level(logging.WARNING):
        mine = kept(executor.execute(jobs, model))
        kept(executor.execute(jobs, model))
    assert distance(mine, kept(alone(task, TRAINING).execute(jobs, model))) == 0
    assert executor.problem
    (line,) = [record.getMessage() for record in caplog.records if "side by side" in record.getMessage()]
    assert "data-dependent control flow" in line


def test_what_a_task_measures_is_measured_for_each_site() -> None:
    task = Counting(make=mlp)
    model, jobs = made_up.start_of(task), made_up.jobs_of(task)
    mine = kept(made_up.side_by_side(task, TRAINING).execute(jobs, model))
    same_metrics(mine, kept(alone(task, TRAINING).execute(jobs, model)))
    assert set(mine[0].metrics) == {"ones", "loss"}


def test_a_diverging_site_is_reported_as_it_is_and_harms_no_other() -> None:
    task = OneIsHuge(make=lambda: nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3)))
    model, jobs = made_up.start_of(task), made_up.jobs_of(task)
    mine = kept(made_up.side_by_side(task, TRAINING).execute(jobs, model))
    theirs = kept(alone(task, TRAINING).execute(jobs, model))
    assert not np.isfinite(vector(mine[1])).all()
    assert distance([mine[i] for i in (0, 2, 3, 4)], [theirs[i] for i in (0, 2, 3, 4)]) < TOLERANCE


class Small(Kernels):
    """Kernels on a device that has room for two sites: where torch raises, this raises the same."""

    refused = 0

    def gradients(self, parameters: Parameters, batch: Batch) -> Any:
        if parameters.count > 2:
            Small.refused += 1
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return super().gradients(parameters, batch)


def test_out_of_memory_fewer_sites_are_trained_at_once_and_none_is_lost(caplog: pytest.LogCaptureFixture) -> None:
    task = MadeUp(make=mlp)
    model, jobs = made_up.start_of(task), made_up.jobs_of(task)
    executor = made_up.side_by_side(task, TRAINING, width=5, of=Small(mlp(), CPU))
    Small.refused = 0
    with caplog.at_level(logging.WARNING):
        mine = kept(executor.execute(jobs, model))
    assert (Small.refused, executor.width) == (1, 2)
    assert distance(mine, kept(made_up.side_by_side(task, TRAINING, width=2).execute(jobs, model))) == 0
    assert "out of memory on the GPU: from now on 2 sites side by side" in caplog.text
    kept(executor.execute(jobs, model))
    assert Small.refused == 1  # it stays with what worked


def test_evaluation_is_that_of_a_site_alone() -> None:
    task = MadeUp(make=mlp)
    model = made_up.start_of(task)
    request = Request(phase="evaluate", round=1, attempt=1, seed=7)
    jobs = [Job(Site(f"site-{number}", partition_id=number), request) for number in range(3)]
    mine = kept(made_up.side_by_side(task, TRAINING).execute(jobs, model))
    assert [dict(reply.metrics) for reply in mine] == [
        dict(reply.metrics) for reply in alone(task, TRAINING).execute(jobs, model)
    ]


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_on_a_gpu_sites_train_side_by_side_as_alone(precision: Any) -> None:
    task = MadeUp(make=lambda: nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3)))
    training = TrainingConfig(epochs=4, batch_size=5, device="cuda", precision=precision)
    model, jobs = made_up.start_of(task), made_up.jobs_of(task)
    program, why = program_for(task, training, torch.device("cuda"))
    assert program, why
    program.compile()
    executor = made_up.side_by_side(task, training, of=program)
    theirs = kept(alone(task, training).execute(jobs, model))
    for _ in range(2):  # the second time the graphs are there
        mine = kept(executor.execute(jobs, model))
        assert distance(mine, theirs) < (TOLERANCE if precision == "float32" else 4 * 2**-8)
