from __future__ import annotations

import json
import subprocess
from pathlib import Path

from fl.rounds.environment import environment, git_state
from fl.rounds.journal import Journal
from tests.fl.rounds.simulator import run_config


def git(directory: Path, *words: str) -> None:
    identity = ["-c", "user.name=Tester", "-c", "user.email=tester@example.org"]
    subprocess.run(["git", "-C", str(directory), *identity, *words], check=True, capture_output=True)


def repository(directory: Path) -> Path:
    directory.mkdir()
    git(directory, "init")
    (directory / "scenario.toml").write_text("[task]\n")
    git(directory, "add", "scenario.toml")
    git(directory, "commit", "-m", "Begin")
    return directory


def test_a_clean_repository_tells_its_commit(tmp_path: Path) -> None:
    found = git_state(repository(tmp_path / "work"))
    assert found is not None
    assert len(found["commit"]) == 40
    assert found["dirty"] is False


def test_a_changed_file_makes_it_dirty_and_a_new_one_does_not(tmp_path: Path) -> None:
    directory = repository(tmp_path / "work")
    (directory / "run.html").write_text("")
    assert git_state(directory)["dirty"] is False
    (directory / "scenario.toml").write_text("[run]\n")
    assert git_state(directory)["dirty"] is True


def test_a_repository_without_a_commit_and_a_bare_directory_tell_nothing(tmp_path: Path, capfd) -> None:
    (tmp_path / "new").mkdir()
    git(tmp_path / "new", "init")
    assert git_state(tmp_path / "new") is None
    assert git_state(tmp_path) is None
    assert git_state(tmp_path / "nowhere") is None
    assert capfd.readouterr() == ("", "")


def test_an_install_without_git_tells_nothing(tmp_path: Path, monkeypatch) -> None:
    directory = repository(tmp_path / "work")
    monkeypatch.setenv("PATH", "")
    assert git_state(directory) is None
    assert "git" not in environment(directory)


def test_a_journal_keeps_the_state_of_the_working_directory(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(repository(tmp_path / "work"))
    Journal.create(tmp_path / "run", run_config().to_dict()).close()
    stored = json.loads((tmp_path / "run/environment.json").read_text())
    assert stored["git"] == git_state(tmp_path / "work")
    assert stored["packages"]["numpy"]
