"""The example of a task of one's own."""

import sys
from pathlib import Path

import numpy as np
import pytest

from fl.rounds.config import RunConfig, options
from fl.tasks import Site, create
from fl.tasks.loop import centralised

EXAMPLE = Path(__file__).parents[3] / "examples" / "own_task"


@pytest.fixture
def config():
    return RunConfig.from_file(EXAMPLE / "run.toml")


@pytest.fixture
def flowers(config, monkeypatch):
    monkeypatch.setattr(sys, "path", sys.path.copy())
    return create(config.task["name"], options(config.task), search_path=EXAMPLE)


def test_it_learns(flowers, config):
    assert centralised(flowers, config.training, epochs=20, seed=1).metrics["accuracy"] > 0.9


def test_it_can_be_divided_among_sites(flowers, tmp_path):
    first_kind = np.flatnonzero(flowers.labels(None) == 0)
    flowers.write_shard(None, first_kind, tmp_path)
    site = Site("a", data_dir=tmp_path)
    assert (len(flowers.train_data(site)), len(flowers.evaluation_data(site))) == (40, 10)
    assert {int(kind) for _, kind in flowers.train_data(site)} == {0}


def test_it_is_as_short_as_the_guide_says():
    lines = (EXAMPLE / "flowers.py").read_text().splitlines()
    code = [line for line in lines if line.strip() and not line.strip().startswith(("#", '"""'))]
    assert len(code) <= 40
