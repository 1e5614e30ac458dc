"""A run that is for some sites asks nobody else, in no phase."""

from __future__ import annotations

from pathlib import Path

import pytest

from fl.errors import ConfigError
from fl.flower.folding import folding_for
from fl.rounds.config import RunConfig
from fl.rounds.engine import Engine
from fl.rounds.journal import Journal
from tests.fl.rounds.simulator import SiteSimulator, federation, run_config


def test_only_the_sites_that_the_run_file_names_are_asked(tmp_path: Path) -> None:
    sites = SiteSimulator(federation(5))
    config = run_config(rounds=2, round={"min_online": 2, "sites": ["site-2", "site-4"]})
    Journal.create(tmp_path / "run", config.to_dict(), clock=sites.time.clock).close()
    with Journal(tmp_path / "run", clock=sites.time.clock) as journal:
        state = Engine(journal, config, sites, folding_for(config.strategy)).run()
    assert {name for name, site in sites.sites.items() if site.asked} == {"site-2", "site-4"}
    assert state.rounds[2].opened[0].online == 2


def test_a_name_that_no_site_can_have_is_refused() -> None:
    with pytest.raises(ConfigError, match="cannot be a site's id"):
        RunConfig.from_dict({"task": {"name": "digits"}, "round": {"sites": ["../x"]}})
