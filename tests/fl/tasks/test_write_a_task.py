"""The guide to writing a task says what is true."""

import dataclasses
import re
import sys
import tomllib
from pathlib import Path

import numpy as np
import pytest

from fl.rounds.config import RunConfig, options
from fl.tasks import Site, Task, TrainingConfig, available, create
from fl.tasks.loop import initial_arrays, train

GUIDE = (Path(__file__).parents[3] / "docs" / "how-to" / "write-a-task.md").read_text()


def blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", GUIDE, re.DOTALL)


@pytest.fixture
def wards(tmp_path, monkeypatch):
    """The guide's own task in a file, with data for one site."""
    monkeypatch.setattr(sys, "path", sys.path.copy())
    (code,) = blocks("python")
    (tmp_path / "wards.py").write_text(code)
    random = np.random.default_rng(1)
    for name in ("train", "test"):
        np.savez(
            tmp_path / f"{name}.npz", signs=random.normal(size=(20, 8)).astype("f4"), ward=random.integers(3, size=20)
        )
    yield tmp_path
    sys.modules.pop("wards", None)


@pytest.mark.parametrize("text", blocks("toml"))
def test_each_table_of_the_guide_is_a_run_file(text, wards):
    config = RunConfig.from_dict(tomllib.loads(text))
    task = create(config.task["name"], options(config.task), search_path=wards)
    assert initial_arrays(task, 1)


def test_the_task_of_the_guide_trains(wards):
    task = create("wards:Wards", {}, search_path=wards)
    assert train(task, initial_arrays(task, 1), Site("a", wards), TrainingConfig(), seed=1).num_examples == 20


def test_the_guide_names_every_built_in_task_and_every_default():
    assert all(f'name = "{name}"' in GUIDE for name in available())
    defaults = [name for name in vars(Task) if not name.startswith("_") and name not in Task.__abstractmethods__]
    assert defaults
    assert all(f"`{name}(" in GUIDE for name in defaults)


def test_the_guide_states_the_defaults_of_training():
    table = tomllib.loads(blocks("toml")[-1])["training"]
    defaults = dataclasses.asdict(TrainingConfig())
    assert table == {key: defaults[key] for key in table}
