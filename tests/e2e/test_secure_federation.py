"""Secure aggregation on real SuperLink and SuperNodes: a run file and a Flower app, and a site that is killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from fl.rounds import events
from fl.rounds.journal import load_state, read
from fl.secagg.documents import text_of
from tests.e2e.test_federation import FL, Up, fl, processes_of, wait_until

pytestmark = [pytest.mark.federation, pytest.mark.slow, pytest.mark.timeout(900)]

APP = Path(__file__).parents[2] / "examples" / "secagg_app"
RUN_FILE = """
[run]
name = "hidden"
rounds = 3
[task]
name = "digits"
network = "mlp"
[round]
min_online = 4
deadline_s = 180.0
[evaluation]
sites_every = 1
[secagg]
weight_cap = 500
"""


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    """Four sites: three shares unmask, one site may drop."""
    federation = Up(tmp_path_factory.mktemp("secure") / "home", "--sites", "4", "--task", "digits")
    yield federation
    federation.end()


def kill(site: str, home: Path) -> None:
    """End a site's processes as a power cut does; ``fl up`` starts the site again."""
    (number,) = [pid for pid, line in processes_of(home).items() if f" site run --home {home}/sites/{site} " in line]
    os.kill(number, signal.SIGKILL)


def verified(receipt: Path, roster: Path, *arguments: str) -> str:
    argv = [FL, "secagg", "verify", str(receipt), "--roster", str(roster), *arguments]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return " ".join(done.stdout.split())


def test_a_run_with_secure_aggregation_outlives_a_site_and_its_receipts_hold(running: Up, tmp_path: Path) -> None:
    home = running.home
    (tmp_path / "run.toml").write_text(RUN_FILE)
    started = json.loads(fl("run", "start", tmp_path / "run.toml", "--detach", "--json", home=home).stdout)
    journal = Path(started["journal"])

    def sites_train() -> bool:
        lines = read(journal) if (journal / "events.jsonl").exists() else []
        closed = [line.event for line in lines if isinstance(line.event, events.StageClosed)]
        return any(event.round == 2 and event.stage == "share" for event in closed)

    wait_until(sites_train, timeout_s=300, tick_s=0.2)
    kill("site-4", home)
    wait_until(lambda: load_state(journal).ended is not None, timeout_s=500, tick_s=1)
    state = load_state(journal)
    assert state.status == "completed", state.ended
    survivors = [entry.sum.survivors for entry in state.rounds.values() if entry.sum]
    assert survivors[0] == ("site-1", "site-2", "site-3", "site-4")
    assert survivors[1] == ("site-1", "site-2", "site-3")
    assert 0 < state.rounds[1].evaluated["sites"].metrics["accuracy"] <= 1
    kinds = {type(line.event) for line in read(journal)}
    assert not kinds & {events.UpdateLanded, events.EvaluationLanded}
    assert not list(journal.rglob("update-site*"))

    # The roster lies beside the receipt; the authority's key is the one that a site has pinned.
    site, receipt = home / "sites" / "site-2" / "secagg", journal / "rounds" / "0002" / "receipt.json"
    roster, authority = receipt.with_name("roster.json"), ("--authority", str(site / "authority.pub"))
    words = verified(receipt, roster, *authority)
    assert "Proved: 4 of them signed" not in words
    assert "that the sum covers exactly these 3 sites: site-1, site-2, site-3" in words
    assert "Not proved: that the updates were honest" in words
    kept = sorted((site / "receipts").iterdir())
    assert len(kept) == 3
    assert "The receipt of site site-2 is about round 2" in verified(kept[1], roster, *authority)


def test_a_server_killed_while_sites_reveal_goes_on_and_they_reveal_once_a_round(running: Up, tmp_path: Path) -> None:
    home = running.home
    wait_until(lambda: all_online(home), timeout_s=180, tick_s=2)
    (tmp_path / "run.toml").write_text(RUN_FILE.replace("rounds = 3", "rounds = 1").replace("hidden", "killed"))
    started = json.loads(fl("run", "start", tmp_path / "run.toml", "--detach", "--json", home=home).stdout)
    journal = Path(started["journal"])

    def sites_agreed() -> bool:
        lines = read(journal) if (journal / "events.jsonl").exists() else []
        return any(isinstance(line.event, events.StageClosed) and line.event.stage == "agree" for line in lines)

    wait_until(sites_agreed, timeout_s=300, tick_s=0.1)
    for number in [pid for pid, line in processes_of(home).items() if "flwr-serverapp" in line]:
        os.kill(number, signal.SIGKILL)
    resumed = fl("run", "resume", journal, "--json", home=home)
    assert resumed.returncode == 0, resumed.stderr
    state = load_state(journal)
    assert (state.status, state.sessions) == ("completed", 2)
    assert state.spent == len(state.rounds[1].opened) - 1
    receipts = sorted((home / "sites" / "site-1" / "secagg" / "receipts").iterdir())
    ours = [json.loads(json.loads(text_of(path.read_bytes()))["config"]) for path in receipts]
    rounds = [config["round"] for config in ours if config["run_id"].startswith("killed ")]
    assert len(rounds) == len(set(rounds)) >= 1


def test_any_flower_app_has_secure_aggregation_with_a_line_at_each_end(running: Up, tmp_path: Path) -> None:
    wait_until(lambda: all_online(running.home), timeout_s=180, tick_s=2)
    options = ("-c", "rounds=2", "-c", f"receipts={tmp_path / 'receipts'}")
    done = fl("run", "start", "--app", APP, *options, home=running.home)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "the line has slope" in done.stdout
    from server import local

    roster = local.secagg_of(running.home) / "roster.json"
    receipts = sorted((tmp_path / "receipts").iterdir())
    assert len(receipts) == 2
    assert "exactly these 4 sites" in verified(receipts[-1], roster)


def all_online(home: Path) -> bool:
    """Whether the SuperLink sees all four sites; one that was killed is let in again after a minute."""
    from server import local

    with local.connect(home) as control:
        return [node.status for node in control.nodes()].count("online") == 4
