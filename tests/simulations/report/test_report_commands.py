"""``fl sim report`` and ``fl sim compare`` as they are typed."""

from __future__ import annotations

import csv
import importlib.util
import io
import json
import shutil
import webbrowser
from pathlib import Path

import pytest

from fl.cli import run as fl


@pytest.fixture
def damaged(sweep: Path, tmp_path: Path) -> Path:
    """The sweep with one run damaged and one stopped half way."""
    directory = tmp_path / "damaged"
    shutil.copytree(sweep, directory)
    journal = directory / "strategy-fedavg_seed-1" / "events.jsonl"
    journal.write_text(journal.read_text().replace('"round":2', '"round":3', 1))
    journal = directory / "strategy-fedavg_seed-2" / "events.jsonl"
    lines = journal.read_text().splitlines(keepends=True)
    journal.write_text("".join(lines[: len(lines) // 2]))
    return directory


def test_compare_prints_a_row_a_variant(sweep: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert fl(["sim", "compare", str(sweep), "--to", "0.2"]) == 0
    out, err = capsys.readouterr()
    header, *rows = out.splitlines()
    assert header.split("  ")[0] == "variant"
    for words in (
        "accuracy",
        "worst tenth",
        "rounds to reach",
        "traffic to reach",
        "simulated time to reach",
        "energy",
    ):
        assert words in header
    assert [row.split()[0] for row in rows] == ["fedadam", "fedavg"]
    assert "to reach: accuracy 20.0 %" in err


def test_compare_prints_json_and_csv_and_nothing_else_on_stdout(
    sweep: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert fl(["sim", "compare", str(sweep), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert [variant["variant"] for variant in told["variants"]] == ["fedadam", "fedavg"]
    assert fl(["sim", "compare", str(sweep), "--csv"]) == 0
    header, *rows = csv.reader(io.StringIO(capsys.readouterr().out))
    accuracy = [float(row[header.index("accuracy")]) for row in rows]
    assert accuracy == pytest.approx([variant["final"]["accuracy"]["mean"] for variant in told["variants"]])
    assert fl(["sim", "compare", str(sweep), "--csv", "--json"]) == 2


def test_compare_draws(sweep: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert fl(["sim", "compare", str(sweep), "--plot", str(tmp_path / "plot.svg")]) == 0
    assert (tmp_path / "plot.svg").stat().st_size > 10_000
    capsys.readouterr()
    assert fl(["sim", "compare", str(sweep), "--plot", str(tmp_path / "plot.gif")]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert "cannot draw" in err


def test_what_is_damaged_or_unfinished_in_a_sweep_is_told_and_the_rest_compared(
    damaged: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert fl(["sim", "compare", str(damaged)]) == 0
    out, err = capsys.readouterr()
    assert [row.split()[0] for row in out.splitlines()[1:]] == ["fedadam", "fedavg"]
    assert "error: strategy-fedavg_seed-1 is left out: its journal cannot be read" in err
    assert "warning: strategy-fedavg_seed-2 is interrupted" in err


@pytest.mark.parametrize("command", ["compare", "report"])
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--metric", "f1"], "no run measured f1"),
        (["--to", "90"], "accuracy cannot reach 90"),
        (["nowhere"], "nowhere is not a journal: no such directory"),
    ],
)
def test_what_cannot_be_compared_is_one_line_and_writes_nothing(
    sweep: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], command: str, arguments: list[str], message: str
) -> None:
    copied = tmp_path / "sweep"
    shutil.copytree(sweep, copied)
    assert fl(["sim", command, str(copied), *arguments]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert message in err
    assert "Traceback" not in err
    assert not list(copied.rglob("*.html"))


def test_report_prints_where_its_page_and_exports_are(
    damaged: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert fl(["sim", "report", str(damaged), "--export", str(tmp_path / "all.csv")]) == 0
    assert capsys.readouterr().out.splitlines() == [str(damaged / "simulation.html"), str(tmp_path / "all.csv")]
    assert "strategy-fedavg_seed-1 is left out" in (damaged / "simulation.html").read_text()
    (tmp_path / "pages").mkdir()
    assert fl(["sim", "report", str(damaged), "--out", str(tmp_path / "pages"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"page": str(tmp_path / "pages" / "simulation.html"), "exports": []}


def test_report_opens_the_page_if_it_is_asked_to(
    sweep: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    opened: list[str] = []
    monkeypatch.setattr(webbrowser, "open", lambda url: bool(opened.append(url)))
    page = tmp_path / "page.html"
    assert fl(["sim", "report", str(sweep), "--out", str(page), "--open"]) == 0
    assert opened == [page.as_uri()]
    assert f"no browser was found; open {page} yourself" in capsys.readouterr().err


def test_mlflow_that_is_not_installed_is_one_line_before_anything_is_written(
    sweep: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: None if name == "mlflow" else found(name, *rest)
    )
    assert fl(["sim", "report", str(sweep), "--out", str(tmp_path / "a.html"), "--mlflow", "strategies"]) == 2
    assert "pip install 'fedfleet[mlflow]'" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_the_runs_go_to_mlflow_if_they_are_asked_to(
    sweep: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("mlflow", reason="mlflow is not installed: pip install 'fedfleet[mlflow]'")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", (tmp_path / "mlruns").as_uri())
    assert fl(["sim", "report", str(sweep), "--out", str(tmp_path / "a.html"), "--mlflow", "strategies", "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)["mlflow_runs"]) == 4


def test_an_export_that_cannot_be_made_is_refused_before_the_page_is_written(sweep: Path, tmp_path: Path) -> None:
    assert (
        fl(["sim", "report", str(sweep), "--out", str(tmp_path / "a.html"), "--export", str(tmp_path / "a.doc")]) == 2
    )
    assert list(tmp_path.iterdir()) == []
