"""Chains of linear layers by the native function: the same as alone, whatever the chain, the sites and the threads."""

from __future__ import annotations

import dataclasses
import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from torch import nn
from torch.utils.data import TensorDataset

from fl.errors import TaskError
from fl.tasks import Site, TrainingConfig
from simulations.engine.vectorised import chain as chains
from simulations.engine.vectorised.chain import Chain, chain_of
from simulations.engine.vectorised.executor import TOLERANCE, Vectorised
from simulations.engine.vectorised.lanes import drawn_by_torch
from simulations.engine.vectorised.program import program_for
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

TRAINING = TrainingConfig(epochs=2, batch_size=5, learning_rate=0.1, momentum=0.0, device="cpu")

CHAINS: dict[str, dict[str, Any]] = {
    "one layer": {},
    "wide and narrow": {"make": lambda: nn.Sequential(nn.Linear(6, 40), nn.ReLU(), nn.Linear(40, 3))},
    "sixteen classes": {"make": lambda: nn.Sequential(nn.Linear(6, 9), nn.ReLU(), nn.Linear(9, 16))},
    "deep": {
        "make": lambda: nn.Sequential(
            nn.Linear(6, 17), nn.ReLU(), nn.Linear(17, 9), nn.Linear(9, 9), nn.ReLU(), nn.Linear(9, 30), nn.ReLU(),
            nn.Linear(30, 3),
        )
    },
    "without biases": {
        "make": lambda: nn.Sequential(nn.Linear(6, 8, bias=False), nn.ReLU(), nn.Linear(8, 3, bias=False))
    },
    "one bias": {"make": lambda: nn.Sequential(nn.Linear(6, 8, bias=False), nn.ReLU(), nn.Linear(8, 3))},
    "rectified outputs": {"make": lambda: nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3), nn.ReLU())},
    "pictures": {
        "make": lambda: nn.Sequential(
            nn.Flatten(), nn.Identity(), nn.Sequential(nn.Linear(12, 8), nn.ReLU()), nn.Linear(8, 3)
        ),
        "shape": (3, 2, 2),
    },
    "sites of one example": {"sizes": (1, 4, 1, 2)},
    "sites as large as others": {"sizes": (10, 10, 10)},
}  # fmt: skip


def native(task: MadeUp, training: TrainingConfig, *, width: int = 8, threads: int = 1) -> Vectorised:
    program, why = program_for(task, training, CPU)
    assert program, why
    program.compile()
    assert program.name == "linear layers, native"
    executor = made_up.side_by_side(task, training, width=width, of=program)
    executor.threads = threads
    return executor


@pytest.fixture
def stepless(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is trained step by step."""

    def fail(*_: Any) -> None:
        raise AssertionError("trained step by step")

    monkeypatch.setattr(Vectorised, "_step_by_step", fail)


TRAININGS = {
    "batches of 8": dataclasses.replace(TRAINING, batch_size=8, epochs=1),
    "of all": dataclasses.replace(TRAINING, batch_size=100, epochs=3),
    "a few": dataclasses.replace(TRAINING, batch_size=3, max_batches=2),
    "momentum": dataclasses.replace(TRAINING, momentum=0.9),
    "everything": dataclasses.replace(TRAINING, momentum=0.5, weight_decay=0.1, proximal_mu=0.5),
    "FedProx": dataclasses.replace(TRAINING, proximal_mu=2.0),
}


@pytest.mark.usefixtures("stepless")
@pytest.mark.parametrize(
    ("name", "training"),
    [(name, TRAINING) for name in CHAINS] + [(name, it) for it in TRAININGS.values() for name in ("deep", "one bias")],
    ids=[*CHAINS, *(f"{name}, {it}" for it in TRAININGS for name in ("deep", "one bias"))],
)
def test_a_chain_trains_as_its_sites_alone(name: str, training: TrainingConfig) -> None:
    task = MadeUp(**CHAINS[name])
    model, jobs = made_up.start_of(task), made_up.jobs_of(task)
    mine = kept(native(task, training).execute(jobs, model))
    theirs = kept(alone(task, training).execute(jobs, model))
    assert distance(mine, theirs) < TOLERANCE
    same_metrics(mine, theirs)


@pytest.mark.usefixtures("stepless")
@pytest.mark.parametrize(("width", "threads"), [(1, 1), (2, 2), (5, 2), (8, 3)])
def test_neither_the_width_nor_the_threads_change_a_bit(width: int, threads: int) -> None:
    task = MadeUp(**CHAINS["deep"])
    model, jobs = made_up.start_of(task), made_up.jobs_of(task)
    one = kept(native(task, TRAINING).execute(jobs, model))
    executor = native(task, TRAINING, width=width, threads=threads)
    other = kept(executor.execute(jobs, model))
    executor.close()
    assert distance(other, one) == 0
    assert [dict(reply.metrics) for reply in other] == [dict(reply.metrics) for reply in one]


@pytest.mark.parametrize("modules", [
    [nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3)],
    [nn.Linear(6, 8), nn.Dropout(0.1), nn.Linear(8, 3)],
    [nn.ReLU(), nn.Linear(6, 3)],
    [nn.Linear(6, 8), nn.ReLU(), nn.ReLU(), nn.Linear(8, 3)],
    [nn.Linear(6, 8), nn.Flatten(), nn.Linear(8, 3)],
    [nn.Flatten(0, 1), nn.Linear(6, 3)],
    [nn.Conv2d(1, 2, 3), nn.Flatten(), nn.Linear(8, 3)],
    [nn.Flatten()],
], ids=lambda modules: ", ".join(type(module).__name__ for module in modules))  # fmt: skip
def test_what_is_no_chain_is_trained_otherwise(modules: list[nn.Module]) -> None:
    assert chain_of(modules) is None


@pytest.mark.parametrize(("task", "optimiser"), [(MadeUp(), "adam"), (MadeUp(), "adamw"), (Counting(), "sgd")])
def test_another_optimiser_or_metrics_of_the_tasks_own_are_not_compiled(task: MadeUp, optimiser: Any) -> None:
    program, why = program_for(task, dataclasses.replace(TRAINING, optimiser=optimiser), CPU)
    assert program, why
    assert (program.chain, program.can_compile) == (None, False)


@pytest.mark.usefixtures("stepless")
def test_what_a_strategy_asks_for_is_done() -> None:
    task = MadeUp(**CHAINS["deep"])
    model, jobs = made_up.start_of(task), made_up.jobs_of(task, proximal_mu=0.5)
    mine = kept(native(task, TRAINING).execute(jobs, model))
    assert distance(mine, kept(alone(task, TRAINING).execute(jobs, model))) < TOLERANCE


def test_a_site_whose_classes_the_model_does_not_have_answers_for_itself_and_harms_no_other() -> None:
    @dataclasses.dataclass(frozen=True)
    class OneIsWrong(MadeUp):
        def train_data(self, site: Site) -> TensorDataset:
            inputs, targets = super().train_data(site).tensors
            return TensorDataset(inputs, targets + (3 if site.partition_id == 1 else 0))

    task = OneIsWrong(make=CHAINS["deep"]["make"])
    model, jobs = made_up.start_of(task), made_up.jobs_of(task)
    mine = kept(native(task, TRAINING).execute(jobs, model))
    theirs = kept(alone(task, TRAINING).execute(jobs, model))
    assert [reply.failure for reply in mine] == [reply.failure for reply in theirs]
    assert [reply.failure is None for reply in mine] == [True, False, True, True, True]
    others = [0, 2, 3, 4]
    assert distance([mine[i] for i in others], [theirs[i] for i in others]) < TOLERANCE


@pytest.mark.usefixtures("stepless")
def test_a_diverging_site_is_reported_as_it_is_and_harms_no_other() -> None:
    task = OneIsHuge(make=CHAINS["wide and narrow"]["make"])
    model, jobs = made_up.start_of(task), made_up.jobs_of(task)
    mine = kept(native(task, TRAINING).execute(jobs, model))
    theirs = kept(alone(task, TRAINING).execute(jobs, model))
    assert not np.isfinite(vector(mine[1])).all()
    others = [0, 2, 3, 4]
    assert distance([mine[i] for i in others], [theirs[i] for i in others]) < TOLERANCE


def test_inputs_of_another_type_are_left_to_torch() -> None:
    @dataclasses.dataclass(frozen=True)
    class Double(MadeUp):
        def train_data(self, site: Site) -> TensorDataset:
            inputs, targets = super().train_data(site).tensors
            return TensorDataset(inputs.double(), targets)

    task = Double()
    model, jobs = made_up.start_of(task), made_up.jobs_of(task)
    mine = kept(native(task, TRAINING).execute(jobs, model))
    theirs = kept(alone(task, TRAINING).execute(jobs, model))
    assert [reply.failure for reply in mine] == [reply.failure for reply in theirs]


@pytest.mark.parametrize("size", [1, 2, 15, 1000])
def test_orders_are_those_that_torch_draws(size: int) -> None:
    chain = _compiled()
    seeds = [0, 5, 1 << 32, (1 << 62) + 11]
    assert (chain.draw(seeds, 3, size) == drawn_by_torch(seeds, 3, size)).all()
    assert chain._draws_as_torch


def test_a_torch_that_draws_in_another_way_draws_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    def backwards(seeds: Any, epochs: int, size: int) -> Any:
        return drawn_by_torch(seeds, epochs, size)[..., ::-1]

    monkeypatch.setattr(chains, "drawn_by_torch", backwards)
    chain = _compiled()
    assert not chain._draws_as_torch
    assert (chain.draw([7], 2, 9) == backwards([7], 2, 9)).all()


def test_without_numba_there_is_no_chain_and_one_that_cannot_be_used_is_told_of(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    layers: list[nn.Module] = [nn.Linear(6, 3)]
    chain = chain_of(layers)
    assert chain
    with monkeypatch.context() as patch:
        patch.delitem(sys.modules, "simulations.engine.vectorised.native", raising=False)
        patch.delattr("simulations.engine.vectorised.native", raising=False)
        patch.setitem(sys.modules, "numba", None)
        with pytest.raises(TaskError, match="Numba cannot be used: "):
            chain.compile()
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert chain_of(layers) is None


DIGEST = """
import hashlib
from simulations.engine.vectorised import native
from tests.simulations.engine.vectorised import made_up
from tests.simulations.engine.vectorised.test_native_chain import CHAINS, TRAINING, MadeUp, native as executor_of
task = MadeUp(**CHAINS["deep"])
digest = hashlib.sha256()
for reply in executor_of(task, TRAINING).execute(made_up.jobs_of(task), made_up.start_of(task)):
    digest.update(made_up.vector(reply).tobytes())
print(digest.hexdigest())
"""


@pytest.mark.slow
def test_what_is_compiled_now_and_what_is_read_back_give_the_same_bits(tmp_path: Path) -> None:
    def digest() -> str:
        environment = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path), "PYTHONPATH": os.pathsep.join(sys.path)}
        return subprocess.run(
            [sys.executable, "-c", DIGEST], env=environment, check=True, capture_output=True, text=True
        ).stdout

    compiled = digest()
    kept_files = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.nbc")}
    assert len(kept_files) == 2
    assert [digest(), digest()] == [compiled] * 2
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.nbc")} == kept_files


def test_where_nothing_can_be_kept_it_is_compiled_for_this_process() -> None:
    from simulations.engine.vectorised import native as module

    there: dict[str, Any] = {}
    exec("def double(x): return 2 * x", there)  # of no file, beside which it could be kept
    assert module._compiled(there["double"], "int64(int64)")(21) == 42


def _compiled() -> Chain:
    chain = chain_of([nn.Linear(6, 3)])
    assert chain
    chain.compile()
    return chain
