"""``fl sim run`` of a Flower app: what it says, what it refuses, and what a program gets."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from fl import cli
from tests.docs.pages import ROOT

MEAN = str(ROOT / "tests" / "e2e" / "apps" / "mean")
EXAMPLE = str(ROOT / "examples" / "flower_app")


def test_an_app_is_run_as_it_is(capsys):
    assert cli.run(["sim", "run", MEAN, "--sites", "20", "--set", "rounds=2", "--workers", "2"]) == 0
    out = capsys.readouterr().out
    assert "the mean is [10.5, 10.5, 10.5]" in out
    assert "40 answered, 0 of them with an error" in out


def test_a_program_gets_json_and_nothing_of_what_the_app_prints(capsys):
    assert cli.run(["sim", "run", MEAN, "--sites", "4", "--json"]) == 0
    told = capsys.readouterr()
    facts = json.loads(told.out)
    assert (facts["sites"], facts["answered"], facts["errors"]) == (4, 4, {})
    assert "the mean is [2.5, 2.5, 2.5]" in told.err


def test_the_example_learns_the_same_with_any_number_of_workers(capsys):
    metrics = []
    for workers in ("1", "2"):
        argv = ["sim", "run", EXAMPLE, "--sites", "10", "--set", "rounds=2", "--workers", workers, "--json"]
        assert cli.run(argv) == 0
        metrics.append(json.loads(capsys.readouterr().out)["metrics"])
    assert metrics[0] == metrics[1]
    assert metrics[0]["result.accuracy"] > 0.6


def test_sites_that_fail_are_told_and_the_run_goes_on(tmp_path, capsys):
    app = tmp_path / "app"
    app.mkdir()
    for path in sorted(Path(MEAN).rglob("*")):
        if path.suffix in (".py", ".toml"):
            target = app / path.relative_to(MEAN)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(path.read_text())
    client = app / "mean_app" / "client.py"
    client.write_text(
        client.read_text().replace("    own = ", '    assert context.node_config["partition-id"]\n    own = ')
    )
    assert cli.run(["sim", "run", str(app), "--sites", "4", "--set", "rounds=2"]) == 0
    told = capsys.readouterr()
    assert "8 answered, 2 of them with an error" in told.out
    assert "partition 0 answered 2 times with an error: <class 'AssertionError'>" in told.err


@pytest.mark.parametrize(
    ("options", "message", "hint"),
    [
        (["--set", "ruonds=2"], "unknown key of the app's run config ruonds", "did you mean rounds?"),
        (["--set", "rounds={a=1}"], "rounds is {'a': 1}, must be a number, a text, true or false", ""),
        (["--out", "somewhere"], "--out is for scenarios, and", "leave out --out"),
        (["--mode", "pool"], "--mode is for scenarios", "leave out --mode"),
        (["--fresh"], "--fresh is for scenarios", "leave out --fresh"),
    ],
)
def test_what_does_not_fit_an_app_is_refused_in_one_line(options, message, hint, capsys):
    assert cli.run(["sim", "run", MEAN, *options]) == 2
    err = capsys.readouterr().err
    assert message in err
    assert hint in err
    assert "Traceback" not in err


def test_the_options_of_apps_are_refused_for_scenarios(capsys):
    assert cli.run(["sim", "run", "first-steps", "--backend", "ray"]) == 2
    assert "--backend is for Flower apps" in capsys.readouterr().err


def test_a_directory_that_is_neither_says_so(tmp_path, capsys):
    assert cli.run(["sim", "run", str(tmp_path)]) == 2
    assert "is neither a journal nor a Flower app" in capsys.readouterr().err


def test_sites_of_a_scenario_can_be_said_too(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert cli.run(
        ["sim", "run", "first-steps", "--sites", "5", "--set", "run.rounds=1", "--out", "run", "--json"]
    ) in (0, 1)
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert config["simulation"]["population"]["sites"] == 5
    assert cli.run(["sim", "run", "first-steps", "--sites", "0"]) == 2
