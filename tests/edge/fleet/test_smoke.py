"""The run file of a smoke run: the canaries are asked, and nobody else."""

import tomllib

import pytest

from edge.fleet.smoke import text_for
from fl.errors import ConfigError
from fl.rounds.config import RunConfig

RUN = """
[run]
name = "smoke"
rounds = 1
[task]
name = "digits"
[round]
min_online = 3
cohort = 5
quorum = 0.5
"""


@pytest.fixture
def run_file(tmp_path):
    path = tmp_path / "smoke.toml"
    path.write_text(RUN)
    return path


def test_the_canaries_alone_are_asked_and_all_of_them_suffice(run_file):
    config = RunConfig.from_dict(tomllib.loads(text_for(run_file, ["berlin", "lyon"])))
    assert config.round.sites == ("berlin", "lyon")
    assert (config.round.min_online, config.round.cohort, config.round.quorum) == (2, 2, 0.5)
    assert (config.run.name, config.run.rounds, config.task) == ("smoke", 1, {"name": "digits"})


def test_sites_that_the_file_names_stay_if_they_are_canaries(run_file):
    run_file.write_text(RUN + 'sites = ["lyon", "turin"]\n')
    config = RunConfig.from_dict(tomllib.loads(text_for(run_file, ["berlin", "lyon"])))
    assert config.round.sites == ("lyon",)
    with pytest.raises(ConfigError, match=r"has none of the sites that were upgraded, berlin"):
        text_for(run_file, ["berlin"])
