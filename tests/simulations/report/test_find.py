"""Which runs a directory stands for, and what is said of those that cannot be read."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from fl.errors import JournalError
from simulations.report.find import find


@pytest.fixture
def broken(sweep: Path, tmp_path: Path) -> Path:
    """The sweep with one run damaged, one whose journal is empty and one that never began."""
    directory = tmp_path / "broken"
    shutil.copytree(sweep, directory)
    lines = (directory / "strategy-fedavg_seed-1" / "events.jsonl").read_text().splitlines(keepends=True)
    lines[5] = lines[5].replace('"site-', '"Site-', 1)
    (directory / "strategy-fedavg_seed-1" / "events.jsonl").write_text("".join(lines))
    (directory / "strategy-fedavg_seed-2" / "events.jsonl").write_text("")
    (directory / "strategy-none_seed-1").mkdir()
    (directory / ".hidden").mkdir()
    (directory / "board" / "fedavg").mkdir(parents=True)
    (directory / "notes.txt").write_text("not a run")
    return directory


def test_a_journal_is_itself_and_a_sweep_the_journals_in_it(sweep: Path, run: Path) -> None:
    assert [trial.directory for trial in find(run).trials] == [run]
    found = find(sweep)
    assert [trial.directory.name for trial in found.trials] == sorted(path.name for path in sweep.iterdir())
    assert found.unread == ()


def test_a_run_that_is_named_twice_counts_once(sweep: Path, run: Path) -> None:
    assert len(find([run, sweep, run / ".." / run.name]).trials) == 4


def test_what_cannot_be_read_in_a_sweep_is_said_and_left_out(broken: Path) -> None:
    found = find(broken)
    assert [trial.directory.name for trial in found.trials] == ["strategy-fedadam_seed-1", "strategy-fedadam_seed-2"]
    assert {run.directory.name: run.why for run in found.unread} == {
        "strategy-fedavg_seed-1": f"{broken / 'strategy-fedavg_seed-1' / 'events.jsonl'} line 6 is damaged: "
        "its checksum does not match",
        "strategy-fedavg_seed-2": f"{broken / 'strategy-fedavg_seed-2'} has no run in it yet: its journal is empty",
        "strategy-none_seed-1": "it has no journal: the run failed before its first round",
    }


@pytest.mark.parametrize("name", ["strategy-fedavg_seed-1", "strategy-fedavg_seed-2", "strategy-none_seed-1"])
def test_a_broken_run_that_is_asked_for_by_name_is_an_error(broken: Path, name: str) -> None:
    with pytest.raises(JournalError):
        find([broken / name])


def test_a_directory_that_is_nothing_of_the_kind_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(JournalError, match="no such directory"):
        find(tmp_path / "nowhere")
    (tmp_path / "one").mkdir()
    with pytest.raises(JournalError, match=r"it has no events.jsonl, nor has any of its 1 directory"):
        find(tmp_path)


def test_a_sweep_of_which_nothing_can_be_read_is_an_error(broken: Path) -> None:
    for path in broken.glob("strategy-fedadam_*"):
        shutil.rmtree(path)
    with pytest.raises(JournalError, match=r"no run can be read: strategy-fedavg_seed-1: .* checksum"):
        find(broken)
