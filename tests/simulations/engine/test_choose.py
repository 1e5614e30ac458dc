"""Which way trains the sites, how it is said, and that a run keeps to it."""

from __future__ import annotations

import dataclasses
import json
import logging
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from fl.errors import ConfigError, JournalError
from fl.tasks import TrainingConfig
from simulations import Scenario
from simulations.engine.choose import FILE, Choice, choose, recorded, write
from simulations.engine.config import EngineConfig
from simulations.engine.ways import WIDEST, Plan, Ways
from simulations.engine.work import Executor
from tests.simulations.engine.vectorised import made_up
from tests.simulations.engine.vectorised.made_up import MadeUp, alone, distance, kept

TRAINING = TrainingConfig(epochs=3, batch_size=1, device="cpu")
MANY = 10**9


def mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))


def normalised() -> nn.Module:
    return nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Linear(8, 3))


class ByValue(nn.Module):
    """Python decides by a value."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(6, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.layer(x if x.sum() > 0 else -x)
        return y


def chosen(
    config: EngineConfig,
    task: MadeUp | None = None,
    *,
    left: int = MANY,
    exact: bool = False,
    training: TrainingConfig = TRAINING,
) -> tuple[Executor, Choice]:
    task = task or MadeUp(make=mlp, sizes=(8,) * 12)
    model = made_up.start_of(task)
    ways = Ways(task, training, alone(task, training), model.layout)
    executor, choice = choose(config, ways, made_up.jobs_of(task), model, left=left, exact=exact)
    executor.close()
    return executor, choice


def test_sites_of_a_tiny_model_are_trained_side_by_side(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        _, choice = chosen(EngineConfig(workers=1, compile=False))
    assert choice.plan == Plan(side_by_side=True, width=WIDEST)
    assert choice.seconds["vectorised, 64 sites at once (batched kernels)"] < choice.seconds["sequential"]
    assert "engine: vectorised, 64 sites at once (batched kernels): the fastest of the trial (ms a site:" in caplog.text


def test_a_short_run_is_not_tried_out() -> None:
    _, choice = chosen(EngineConfig(), left=12)
    assert choice.plan == Plan()
    assert choice.why.startswith("the run takes about")
    assert list(choice.seconds) == ["sequential"]


def test_exact_never_trains_side_by_side() -> None:
    _, choice = chosen(EngineConfig(workers=2), exact=True)
    assert choice.plan == Plan(workers=2)
    with pytest.raises(ConfigError, match=r"engine.mode is vectorised, whose last digits"):
        chosen(EngineConfig(mode="vectorised"), exact=True)


@pytest.mark.parametrize(
    ("config", "plan"),
    [
        (EngineConfig(mode="sequential"), Plan()),
        (EngineConfig(mode="pool", workers=3), Plan(workers=3)),
        (
            EngineConfig(mode="vectorised", width=4, workers=2, compile=False),
            Plan(side_by_side=True, width=4, workers=2),
        ),
        (EngineConfig(mode="vectorised", width=4, workers=1, compile=False), Plan(side_by_side=True, width=4)),
    ],
    ids=lambda value: "",
)
def test_what_the_scenario_says_is_done(config: EngineConfig, plan: Plan) -> None:
    _, choice = chosen(config)
    assert choice.plan == plan
    assert choice.plan.mode == config.mode


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (normalised, r"1 \(BatchNorm1d\) keeps statistics of the batches"),
        (ByValue, "data-dependent control flow"),
    ],
    ids=["batch norm", "control flow"],
)
@pytest.mark.parametrize("mode", ["auto", "vectorised"])
def test_what_cannot_be_trained_side_by_side_is_trained_otherwise_and_the_reason_is_told(
    make: Any, reason: str, mode: Any, caplog: pytest.LogCaptureFixture
) -> None:
    task = MadeUp(make=make, sizes=(8,) * 4)
    training = dataclasses.replace(TRAINING, batch_size=4)
    executor, choice = chosen(EngineConfig(mode=mode, workers=1), task, training=training)
    assert choice.plan == Plan()
    assert executor.name == "sequential"
    assert re.search(f"not side by side, because .*{reason}", choice.why)


def test_every_plan_gives_the_same_updates() -> None:
    task = MadeUp(make=mlp, sizes=(8, 3, 9, 8, 5))
    model, jobs = made_up.start_of(task), made_up.jobs_of(task)
    ways = Ways(task, TRAINING, alone(task, TRAINING), model.layout)
    theirs = kept(ways.alone.execute(jobs, model))
    for plan, tolerance in (
        (Plan(), 0),
        (Plan(workers=2), 0),
        (Plan(side_by_side=True, width=2), 1e-4),
        (Plan(side_by_side=True, width=2, workers=2), 1e-4),
    ):
        executor = ways.executor(plan)
        try:
            assert distance(kept(executor.execute(jobs, model)), theirs) <= tolerance
        finally:
            executor.close()


def test_a_choice_is_kept_beside_the_journal_and_decides_what_comes_after(tmp_path: Path) -> None:
    choice = Choice(Plan(side_by_side=True, width=8, workers=2, is_compiled=True), "the fastest", {"sequential": 0.1})
    write(tmp_path, choice)
    assert json.loads((tmp_path / FILE).read_text())["seconds_a_site"] == {"sequential": 0.1}
    kept_config = recorded(tmp_path, EngineConfig())
    assert kept_config == EngineConfig(mode="vectorised", width=8, compile=True)
    assert recorded(tmp_path, EngineConfig(mode="pool")) == EngineConfig(mode="pool")
    assert recorded(tmp_path / "elsewhere", EngineConfig(workers=3)) == EngineConfig(workers=3)
    (tmp_path / FILE).write_text("{")
    with pytest.raises(JournalError, match=r"cannot read .*engine.json"):
        recorded(tmp_path, EngineConfig())


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"mode": "fast"}, r"engine.mode is 'fast'"),
        ({"workers": 0}, "engine.workers is 0, must be at least 1"),
        ({"width": 0}, "engine.width is 0, must be at least 1"),
        ({"worker": 2}, "unknown key engine.worker"),
    ],
)
def test_a_wrong_engine_table_is_refused(table: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Scenario.from_dict({"task": {"name": "digits"}, "run": {"rounds": 1}, "engine": table})


def test_a_cohort_is_divided_evenly_among_the_processes_that_are_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    def convolved() -> nn.Module:
        return nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 196, 3))

    monkeypatch.setattr(Ways, "processors", lambda ways: 2)
    task = MadeUp(make=convolved, shape=(1, 14, 14), sizes=(100,) * 11)
    config, training = EngineConfig(mode="vectorised", compile=False), TrainingConfig(batch_size=10, device="cpu")
    _, choice = chosen(config, task, training=training)
    assert "vectorised, 8 sites at once (batched kernels)" in choice.seconds
    assert "2 workers (vectorised, 6 sites at once (batched kernels))" in choice.seconds  # 6 and 5, not 8 and 3
    for workers in (1, 2, 3):
        _, asked = chosen(dataclasses.replace(config, workers=workers), task, training=training)
        assert asked.plan == dataclasses.replace(choice.plan, workers=workers)


def test_a_chain_of_linear_layers_is_compiled_for_a_run_that_takes_another_second() -> None:
    task = MadeUp(make=lambda: nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3)), sizes=(8,) * 12)
    _, choice = chosen(EngineConfig(), task)
    assert choice.plan.is_compiled
    assert "vectorised, 64 sites at once (linear layers, native)" in choice.seconds
    _, choice = chosen(EngineConfig(compile=False), task)
    assert not choice.plan.is_compiled


@pytest.mark.slow
def test_a_long_run_is_compiled_and_the_log_says_what_that_took(caplog: pytest.LogCaptureFixture) -> None:
    def convolved() -> nn.Module:
        return nn.Sequential(
            nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(16 * 196, 3)
        )

    task = MadeUp(make=convolved, shape=(1, 28, 28), sizes=(40,) * 8)
    training = TrainingConfig(batch_size=10, device="cpu")
    _, choice = chosen(EngineConfig(workers=1), task, training=training)
    assert "compiling took" in choice.why
    assert any(name.endswith("(batched kernels, compiled)") for name in choice.seconds)
    _, choice = chosen(EngineConfig(mode="vectorised", workers=1, compile=False), task, training=training)
    assert not choice.plan.is_compiled
