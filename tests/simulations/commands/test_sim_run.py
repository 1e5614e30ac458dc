"""``fl sim run`` and ``fl sim list``: what is run, what is gone on with, what is repeated, and what Ctrl-C leaves."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from fl import cli
from fl.rounds.checkpoint import model_path
from fl.rounds.config import RunConfig
from fl.rounds.journal import Journal, load_state, read
from simulations import Progress, Scenario, simulate
from simulations.scenario import shipped

FL = str(Path(sys.executable).with_name("fl"))

SCENARIO = """
[scenario]
expect = { accuracy = { at_least = 0.2 }, rounds = { at_least = 2 } }

[task]
name = "digits"
network = "mlp"

[run]
name = "small"
rounds = 2

[evaluation]
sites_every = 2

[population]
sites = 4
"""

OWN_TASK = '''
from dataclasses import dataclass

from fl.tasks.digits import Digits


@dataclass(frozen=True, kw_only=True)
class Mine(Digits):
    """A task of one's own."""
'''


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "small.toml").write_text(SCENARIO)
    return tmp_path / "small.toml"


def said(capfd: pytest.CaptureFixture[str]) -> str:
    """All that was printed, on one line."""
    captured = capfd.readouterr()
    return " ".join((captured.out + captured.err).split())


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["first-stepz"], "fl: error: unknown scenario first-stepz fl: hint: did you mean first-steps?"),
        (["nowhere.toml"], "no such file: nowhere.toml"),
        (["small.toml", "--set", "population.site=3"], "unknown key population.site"),
        (["small.toml", "--set", "epochs"], "cannot read 'epochs' as key=value"),
        (["small.toml", "--set", "round.cohort=5"], "round.cohort is 5, and there are 4 sites"),
        (["small.toml", "--set", "population.sites=9999"], "1438 examples do not suffice for 9999 sites"),
        (["small.toml", "--set", "split.minimum=900"], "1438 examples do not suffice for 4 sites with at least 900"),
        (
            ["small.toml", "--set", "population.sites=1430", "--set", 'split={kind="label", labels_per_site=1}'],
            "would have 0 examples, at least 1 needed fl: hint: take fewer sites, more labels_per_site",
        ),
        (
            ["small.toml", "--set", "population.sites=100", "--set", 'split={kind="label", minimum=14}'],
            "would have 13 examples, at least 14 needed fl: hint: split.minimum = 13 lets this pass",
        ),
        (["small.toml", "--out", "."], "is not empty, and no journal"),
        (["nothing"], "nothing is neither a journal nor a Flower app: it has no events.jsonl"),
        (["small.toml", "--seed", "-1"], "-1 is not in the range"),
    ],
)
def test_what_cannot_be_run_is_refused_with_a_way_out(
    file: Path, arguments: list[str], words: str, capfd: pytest.CaptureFixture[str]
) -> None:
    Path("nothing").mkdir()
    assert cli.run(["sim", "run", *arguments]) == 2
    told = said(capfd)
    assert words in told
    assert "fl: hint: " in told or "no such file" in told or "range" in told
    assert "Traceback" not in told
    assert "goes on" not in told
    assert not list(file.parent.glob("runs/*"))


def test_a_run_tells_its_figures_and_what_was_expected(file: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["sim", "run", "small.toml", "--out", "first"]) == 0
    told = said(capfd)
    assert "as expected: accuracy at least 0.2" in told
    assert "round 2 of 2" in told
    assert "journal first" in told


def test_a_run_that_misses_what_is_expected_ends_with_a_status_of_its_own(
    file: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    miss = ["sim", "run", "small.toml", "--set", "scenario.expect.accuracy.at_least=0.999"]
    assert cli.run([*miss, "--out", "first"]) == 1
    assert "fl: error: small: accuracy at least 0.999 expected, reached 0." in said(capfd)
    assert cli.run([*miss, "--out", "second", "--json"]) == 1
    told = json.loads(capfd.readouterr().out)
    assert [expected["met"] for expected in told["expected"]] == [False, True]
    assert told["figures"]["rounds"] == 2


def test_a_complete_run_is_run_again_and_compared_to_the_bit(file: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["sim", "run", "small.toml", "--out", "first", "--set", "training.epochs=2", "--seed", "9"]) == 0
    capfd.readouterr()
    assert cli.run(["sim", "run", "first", "--out", "second"]) == 0
    assert "the model is that of first, to the bit" in said(capfd)
    assert model_path(Path("first"), 2).read_bytes() == model_path(Path("second"), 2).read_bytes()
    assert Scenario.from_journal(Path("second")).config.run.seed == 9
    assert cli.run(["sim", "run", "small.toml", "--out", "first"]) == 2
    assert "the run of first is complete" in said(capfd)


def test_another_scenario_does_not_go_on_with_an_unfinished_run(file: Path, capfd: pytest.CaptureFixture[str]) -> None:
    def stop(progress: Progress) -> None:
        raise InterruptedError

    with pytest.raises(InterruptedError):
        simulate(Scenario.from_file(file), Path("begun"), progress=stop)
    assert cli.run(["sim", "run", "small.toml", "--out", "begun", "--set", "training.epochs=3"]) == 2
    told = said(capfd)
    assert "the run of begun was begun with another" in told
    assert "fl sim run begun goes on with it as it was begun" in told


def test_a_task_of_ones_own_is_kept_with_the_journal(file: Path) -> None:
    Path("mine.py").write_text(OWN_TASK)
    file.write_text(SCENARIO.replace('"digits"', '"mine:Mine"'))
    assert cli.run(["sim", "run", "small.toml", "--out", "first"]) == 0
    Path("mine.py").unlink()
    assert cli.run(["sim", "run", "first", "--out", "second"]) == 0
    assert model_path(Path("first"), 2).read_bytes() == model_path(Path("second"), 2).read_bytes()


def test_the_list_has_every_scenario_with_what_it_teaches(capfd: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["sim", "list"]) == 0
    lines = capfd.readouterr().out.splitlines()[1:]
    assert [line.split()[0] for line in lines] == list(shipped())
    assert cli.run(["sim", "list", "--json"]) == 0
    told = json.loads(capfd.readouterr().out)
    assert [entry["name"] for entry in told] == list(shipped())
    assert all(entry["teaches"] and entry["expect"] for entry in told)


def stop_early(file: Path, directory: str, rounds: int = 60, after: int = 3) -> str:
    """Send Ctrl-C to a real run after some of its rounds; what it said."""
    argv = [FL, "sim", "run", file.name, "--out", directory, "--set", f"run.rounds={rounds}"]
    process = subprocess.Popen(argv, cwd=file.parent, stderr=subprocess.PIPE, text=True, start_new_session=True)
    try:
        end_s = time.monotonic() + 60
        events = file.parent / directory / "events.jsonl"
        while not events.exists() or load_state(events.parent).committed_rounds < after:
            assert process.poll() is None, process.communicate()[1]
            assert time.monotonic() < end_s, "no round was committed"
            time.sleep(0.02)
        os.killpg(process.pid, signal.SIGINT)
        told = process.communicate(timeout=60)[1]
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    assert process.returncode == cli.INTERRUPTED, told
    return told


@pytest.mark.slow
def test_ctrl_c_leaves_a_whole_journal_from_which_the_run_goes_on_to_the_same_model(
    file: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    told = stop_early(file, "stopped")
    assert "fl sim run stopped goes on where it stands" in told
    assert "Traceback" not in told
    before = load_state(Path("stopped"))
    assert 3 <= before.committed_rounds < 60
    assert [record.seq for record in read(Path("stopped"))] == list(range(len(read(Path("stopped")))))
    assert cli.run(["sim", "run", "stopped"]) == 0
    assert "journal stopped" in said(capfd)
    assert load_state(Path("stopped")).status == "completed"
    simulate(Scenario.from_journal(Path("stopped")), Path("whole"))
    assert model_path(Path("stopped"), 60).read_bytes() == model_path(Path("whole"), 60).read_bytes()


def test_the_journal_of_a_deployed_run_is_simulated_on_as_many_sites(
    file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tables = {"task": {"name": "digits", "network": "mlp"}, "run": {"rounds": 1}, "round": {"cohort": 11}}
    config = RunConfig.from_dict(tables)
    for name, sites in (("deployed", 11), ("more", 12)):
        simulate(config, file.parent / name, sites=sites)
    assert cli.run(["sim", "run", "deployed", "--out", "again"]) == 0
    assert "the model is that of deployed, to the bit" in capsys.readouterr().err
    assert cli.run(["sim", "run", "more", "--out", "once-more", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["same_model"] is True
    created = Journal.create(file.parent / "new", config.to_dict())
    created.close()
    assert cli.run(["sim", "run", "new"]) == 2
    assert "no round of new was opened" in capsys.readouterr().err
