"""Promise 4 on real Flower processes: what was deployed is what ``fl sim parity`` simulates, to the bit."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from fl.rounds import events
from fl.rounds.journal import read
from tests.e2e.test_federation import FL, Up, fl

pytestmark = [pytest.mark.federation, pytest.mark.timeout(600)]

# The round closes when two of three have answered: who is in it is decided by the machine's load, not by the seed.
RUN_FILE = """
[run]
name = "parity"
rounds = 3
seed = 11
[task]
name = "digits"
network = "mlp"
[training]
epochs = 2
[strategy]
name = "fedyogi"
[round]
cohort = 2
over_selection = 0.5
min_online = 3
[evaluation]
sites_every = 2
"""


def test_a_deployed_run_whose_survivors_chance_decided_is_simulated_to_the_bit(tmp_path: Path) -> None:
    home = tmp_path / "home"
    (tmp_path / "run.toml").write_text(RUN_FILE)
    federation = Up(home, "--sites", "3", "--task", "digits", "--split", "dirichlet", "--alpha", "1.0")
    try:
        done = fl("run", "start", tmp_path / "run.toml", "--json", home=home)
        assert done.returncode == 0, done.stderr
    finally:
        federation.end()
    journal = Path(json.loads(done.stdout)["journal"])
    closed = [record.event for record in read(journal) if isinstance(record.event, events.RoundClosed)]
    assert [len(event.survivors) for event in closed] == [2, 2, 2]

    def parity(*options: str) -> subprocess.CompletedProcess[str]:
        argv = [FL, "sim", "parity", str(journal), "--json", *options]
        return subprocess.run(argv, capture_output=True, text=True, timeout=300)

    proved = parity()
    assert proved.returncode == 0, proved.stdout + proved.stderr
    facts = json.loads(proved.stdout)
    assert facts["is_same"]
    assert [it["round"] for it in facts["rounds"]] == [0, 1, 2, 3]

    swapped = tmp_path / "swapped"
    swapped.mkdir()
    for name, other in (("site-1", "site-2"), ("site-2", "site-3"), ("site-3", "site-1")):
        (swapped / name).symlink_to(home / "sites" / other / "data")
    refuted = parity("--data", str(swapped))
    assert refuted.returncode == 1, refuted.stdout + refuted.stderr
    assert json.loads(refuted.stdout)["parts_at"] == 1
