"""Promise 2 where Flower loses messages: SuperLink dies between what it writes down and what it says.

The run ends as if nothing had happened: every site is in every round, and the model is that of the undisturbed run.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from fl.arrays import ArrayFile
from fl.rounds import events
from fl.rounds.checkpoint import model_path
from fl.rounds.config import RunConfig
from fl.rounds.journal import read
from simulations import simulate
from tests import killed_superlink
from tests.e2e.test_federation import Up, fl, wait_until

pytestmark = [pytest.mark.federation, pytest.mark.slow, pytest.mark.timeout(600)]

ROUNDS = 10
# Fewer than the deaths within a minute after which a supervisor gives up.
DEATHS = ["runtime.push_object", "fleet.pull_messages", "claim_replies", "runtime.pull_messages"]
RUN_FILE = f"""
[run]
name = "lost"
rounds = {ROUNDS}
seed = 11
[task]
name = "digits"
network = "mlp"
[training]
epochs = 1
[round]
min_online = 2
deadline_s = 90
[evaluation]
sites_every = 0
"""


def test_no_site_is_missing_in_a_run_whose_superlink_dies_at_its_worst_instants(tmp_path, monkeypatch):
    wish = tmp_path / "wish"
    for name, value in killed_superlink.environment(wish).items():
        monkeypatch.setenv(name, value)
    home = tmp_path / "home"
    (tmp_path / "run.toml").write_text(RUN_FILE)
    federation = Up(home, "--sites", "2", "--task", "digits", "--split", "dirichlet", "--alpha", "1.0")
    try:
        started = json.loads(fl("run", "start", tmp_path / "run.toml", "--detach", "--json", home=home).stdout)
        journal = Path(started["journal"])

        def committed() -> int:
            return sum(isinstance(entry, events.RoundCommitted) for entry in happened(journal))

        wait_until(lambda: committed() >= 1, timeout_s=120)
        for step in DEATHS:
            before = committed()
            killed_superlink.die_after(wish, step)
            wait_until(lambda: not wish.exists(), timeout_s=60)
            wait_until(lambda: committed() > before, timeout_s=80)  # noqa: B023, called at once
        wait_until(lambda: committed() == ROUNDS, timeout_s=120)
    finally:
        federation.end()
    failed = [entry for entry in happened(journal) if isinstance(entry, events.ReplyFailed)]
    assert failed == []
    assert sum(isinstance(entry, events.UpdateLanded) for entry in happened(journal)) == 2 * ROUNDS
    assert federation.log.read_text().count("superlink was ended by SIGKILL") == len(DEATHS)

    config = RunConfig.from_file(tmp_path / "run.toml")
    data = tmp_path / "data"
    data.mkdir()
    for name in ("site-1", "site-2"):
        (data / name).symlink_to(home / "sites" / name / "data")
    simulate(config, tmp_path / "undisturbed", sites=2, data=data)
    assert model_of(journal) == model_of(tmp_path / "undisturbed")


def happened(journal):
    return [record.event for record in read(journal)] if (journal / "events.jsonl").exists() else []


def model_of(directory):
    with ArrayFile(model_path(directory, ROUNDS)) as file:
        return file.vector_P.tobytes()
