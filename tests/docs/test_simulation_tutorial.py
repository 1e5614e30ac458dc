"""The tutorial of simulations: its scenario comes to what the page says, and its Python runs."""

import re
import tomllib

import pytest

from simulations import Scenario, simulate
from simulations.outcome import Outcome
from tests.docs import pages

PAGE = "docs/tutorials/simulate.md"


@pytest.fixture
def file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (text,) = pages.fences(PAGE, "toml")
    (tmp_path / "clinics.toml").write_text(text)
    return tmp_path / "clinics.toml"


def figures_after(command):
    """What the page says that a command printed."""
    output = pages.read(PAGE).partition(f"$ {command}\n")[2].partition("```")[0]
    return {
        name: float(value) for name, value in re.findall(r"^(accuracy|loss|simulated_hours) +([\d.]+)$", output, re.M)
    }


@pytest.mark.parametrize(
    ("command", "settings"),
    [
        ("fl sim run clinics.toml --out runs/clinics", {}),
        ("fl sim run clinics.toml --set faults.dropout=0.0 --out runs/reliable", {"faults.dropout": 0.0}),
    ],
)
def test_a_run_of_the_page_comes_to_its_figures(file, command, settings):
    scenario = Scenario.from_file(file).unswept().changed(settings)
    figures = Outcome.of(file.parent / "run", simulate(scenario, file.parent / "run"), scenario).figures
    written = figures_after(command)
    assert written.keys() == {"accuracy", "loss", "simulated_hours"}
    assert figures["simulated_hours"] == pytest.approx(written["simulated_hours"], rel=1e-3)
    assert figures["accuracy"] == pytest.approx(written["accuracy"], abs=0.02)  # another CPU rounds otherwise


def test_the_sweep_of_the_page_has_the_runs_of_its_table(file):
    labels = {variant.label for variant in Scenario.from_file(file).variants()}
    assert len(labels) == 4
    for label in labels:
        strategy, share = re.fullmatch(r"strategy-(\w+)_over_selection-([\d.]+)", label).groups()
        assert f"\n{strategy}, over_selection {float(share):g} " in pages.read(PAGE)


def test_the_python_of_the_page_runs(file, capsys):
    text = file.read_text().replace("rounds = 20", "rounds = 2")
    assert tomllib.loads(text)["run"]["rounds"] == 2
    file.write_text(text)
    (code,) = pages.fences(PAGE, "python")
    exec(compile(code, PAGE, "exec"), {})
    assert re.findall(r"^(0\.\d) \{", capsys.readouterr().out, re.M) == ["0.0", "0.3"]
