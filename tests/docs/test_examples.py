"""Every example runs, in this process, and learns."""

import dataclasses
import filecmp
import runpy
import sys

import pytest

from fl.rounds.checkpoint import model_path
from server.runs import read_run_file
from simulations import simulate
from tests.docs.pages import ROOT

EXAMPLES = ROOT / "examples"
ROUNDS = 3
"""Fewer than the examples ask for, because this is the fast suite."""

REACHED = {"digits": 0.9, "own_task": 0.6, "tabular": 0.8}
"""Accuracy at the centre, or at the sites if the example has no data there; chance is 0.1, 0.33 and 0.63."""


def test_every_example_is_run():
    assert {path.parent.name for path in EXAMPLES.glob("*/run.toml")} == REACHED.keys()


@pytest.mark.parametrize("name", REACHED)
def test_an_example_learns(name, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", sys.path.copy())
    config = read_run_file(EXAMPLES / name / "run.toml")
    config = dataclasses.replace(config, run=dataclasses.replace(config.run, rounds=ROUNDS))
    state = simulate(config, tmp_path / "run", sites=3, search_path=EXAMPLES / name)
    assert state.status == "completed"
    assert model_path(tmp_path / "run", ROUNDS).is_file()
    evaluated = state.rounds[ROUNDS].evaluated
    place = "centre" if config.evaluation.centre_every else "sites"
    assert evaluated[place].metrics["accuracy"] > REACHED[name]


def test_the_table_of_the_example_is_what_its_script_writes(tmp_path):
    runpy.run_path(str(EXAMPLES / "tabular" / "make_table.py"))["main"](tmp_path)
    names = ["held_out.csv", "tumours.csv"]
    assert filecmp.cmpfiles(EXAMPLES / "tabular", tmp_path, names, shallow=False) == (names, [], [])
