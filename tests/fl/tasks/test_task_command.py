"""``fl task``."""

import json

import numpy as np
import pytest

from fl import cli
from fl.tasks import create

RUN = """
[run]
rounds = 3

[task]
name = "digits"
network = "mlp"

[training]
epochs = 5
device = "cpu"
"""


@pytest.fixture
def run_file(tmp_path):
    path = tmp_path / "run.toml"
    path.write_text(RUN)
    return path


def test_list_names_the_built_in_tasks(capsys):
    assert cli.run(["task", "list"]) == 0
    out = capsys.readouterr().out
    assert all(name in out for name in ("digits", "images", "tabular"))


def test_list_as_json(capsys):
    assert cli.run(["task", "list", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["digits"].startswith("Handwritten digits")


def test_train_reports_both_sides_as_json(capsys, run_file):
    assert cli.run(["task", "train", str(run_file), "--epochs", "4", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["evaluation"]["accuracy"] > 0.85
    assert (facts["training"]["num_examples"], facts["evaluation"]["num_examples"]) == (1438, 359)
    assert facts["report"]["device"] == "cpu"


def test_train_prints_a_table(capsys):
    assert cli.run(["task", "train", "digits", "--epochs", "1", "--device", "cpu"]) == 0
    out = capsys.readouterr().out
    assert "accuracy" in out
    assert "cpu in float32" in out


def test_train_takes_a_sites_directory(capsys, tmp_path):
    create("digits", {}).write_shard(None, np.arange(100), tmp_path)
    assert cli.run(["task", "train", "digits", "--epochs", "1", "--data", str(tmp_path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["training"]["num_examples"] == 100


@pytest.mark.parametrize(
    ("arguments", "lines"),
    [
        (["digitz"], ["fl: error: unknown task digitz", "fl: hint: did you mean digits?"]),
        (["digits", "--device", "gpu"], ["fl: error: unknown device gpu"]),
        (["digits", "--data", "/nowhere"], ["fl: error: there is no directory /nowhere"]),
        (["nowhere.toml"], ["fl: error: no such file: nowhere.toml"]),
        (
            ["no_such_module:B"],
            ["fl: error: cannot import the task no_such_module:B: No module named 'no_such_module'"],
        ),
    ],
)
def test_what_cannot_be_is_refused(capsys, arguments, lines):
    assert cli.run(["task", "train", *arguments]) == 2
    err = capsys.readouterr().err
    assert all(line in err for line in lines)


def test_a_misspelt_option_in_a_run_file_is_refused(capsys, run_file):
    run_file.write_text(RUN.replace("network", "networkk"))
    assert cli.run(["task", "train", str(run_file), "--json"]) == 2
    error = json.loads(capsys.readouterr().out)
    assert (error["error"], error["hint"]) == ("unknown key task.networkk", "did you mean task.network?")
