import numpy as np
import pytest

from fl.errors import ConfigError, TaskError
from fl.tasks.base import Site
from fl.tasks.digits import Digits
from fl.tasks.splits import SplitConfig
from server import shards


@pytest.fixture
def directories(tmp_path):
    made = [tmp_path / f"site-{number}" for number in range(3)]
    for directory in made:
        directory.mkdir()
    return made


def digits(**changes):
    return shards.ShardsConfig(**({"task": "digits"} | changes))


def test_each_site_finds_its_own_part_and_together_they_are_all(directories):
    pytest.importorskip("torch")
    counts = shards.write(digits(), directories)
    assert sum(counts) == len(Digits().labels(None))
    for directory, count in zip(directories, counts, strict=True):
        site = Site(directory.name, data_dir=directory)
        assert len(Digits().train_data(site)) + len(Digits().evaluation_data(site)) == count


def test_one_seed_gives_one_division(directories, tmp_path):
    split = SplitConfig(kind="dirichlet", alpha=0.3)
    first = shards.write(digits(split=split, seed=7), directories)
    labels = [np.load(directory / "digits.npz")["labels"] for directory in directories]
    assert shards.write(digits(split=split, seed=7), directories) == first
    again = [np.load(directory / "digits.npz")["labels"] for directory in directories]
    assert all(np.array_equal(one, other) for one, other in zip(labels, again, strict=True))
    assert shards.write(digits(split=split, seed=8), directories) != first


def test_an_unknown_task_is_refused_with_the_one_that_was_meant(directories):
    with pytest.raises(ConfigError, match="unknown task digit") as caught:
        shards.write(digits(task="digit"), directories)
    assert "did you mean digits" in caught.value.hint


OWN = """
import dataclasses
import numpy as np
from fl.tasks import Task

@dataclasses.dataclass(frozen=True)
class Few(Task):
    model = train_data = evaluation_data = lambda self, *_: None
    def labels(self, source):
        return np.zeros(2)
"""


def test_fewer_examples_than_sites_are_refused(directories, tmp_path):
    (tmp_path / "few_examples.py").write_text(OWN)
    config = digits(task="few_examples:Few", search_path=tmp_path)
    with pytest.raises(TaskError, match="2 examples cannot be divided among 3 sites"):
        shards.write(config, directories)
