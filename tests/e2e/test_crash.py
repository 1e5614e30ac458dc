"""Promise 2 on real Flower processes: the server is killed in a round, the run is resumed, the model is the same.

And promise 4 beside it: the same run file, simulated in one process on the sites' own data, ends with the same bits.
"""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import pytest

from fl.arrays import ArrayFile
from fl.rounds.checkpoint import model_path
from fl.rounds.config import RunConfig
from fl.rounds.journal import load_state, read
from simulations import simulate
from tests.e2e.test_federation import Up, fl, processes_of, wait_until

pytestmark = [pytest.mark.federation, pytest.mark.timeout(600)]

ROUNDS = 3
RUN_FILE = f"""
[run]
name = "crash"
rounds = {ROUNDS}
seed = 11
[task]
name = "digits"
network = "mlp"
[training]
epochs = 2
[strategy]
name = "fedadam"
[round]
min_online = 2
[evaluation]
sites_every = 0
"""


def model_of(directory: Path) -> bytes:
    with ArrayFile(model_path(directory, ROUNDS)) as file:
        return file.vector_P.tobytes()


def test_a_killed_server_is_resumed_and_ends_with_the_model_of_the_undisturbed_run(tmp_path: Path) -> None:
    home = tmp_path / "home"
    (tmp_path / "run.toml").write_text(RUN_FILE)
    federation = Up(home, "--sites", "2", "--task", "digits", "--split", "dirichlet", "--alpha", "1.0")
    try:
        started = json.loads(fl("run", "start", tmp_path / "run.toml", "--detach", "--json", home=home).stdout)
        journal = Path(started["journal"])

        def in_round_two() -> bool:
            return (journal / "events.jsonl").exists() and 2 in load_state(journal).rounds

        wait_until(in_round_two, timeout_s=240, tick_s=0.2)
        servers = [pid for pid, argv in processes_of(home).items() if "flwr-serverapp" in argv]
        assert servers, "no server process is running"
        for pid in servers:
            os.kill(pid, signal.SIGKILL)
        killed_at = len(read(journal))

        resumed = fl("run", "resume", journal, "--json", home=home)
        assert resumed.returncode == 0, resumed.stderr
        assert json.loads(resumed.stdout)["status"] == "completed"
        assert load_state(journal).sessions == 2
        assert len(read(journal)) > killed_at

        config = RunConfig.from_file(tmp_path / "run.toml")
        data = tmp_path / "data"
        data.mkdir()
        for name in ("site-1", "site-2"):
            (data / name).symlink_to(home / "sites" / name / "data")
        simulate(config, tmp_path / "undisturbed", sites=2, data=data)
        assert model_of(journal) == model_of(tmp_path / "undisturbed")
    finally:
        federation.end()
