from __future__ import annotations

import csv
import dataclasses
import io
import json
import math
import sys
from pathlib import Path

import pytest
from PIL import Image

from fl import cli
from fl.report import export
from fl.report.facts import Answer, Attempt, Facts, Measured, Reason, Round, Run, Session, SiteSummary
from fl.report.gather import gather
from tests.fl.report.journals import cut, failing, journal
from tests.fl.rounds.simulator import SimulatedSite, federation

GUIDE = Path(__file__).parents[3] / "docs/how-to/read-a-report.md"


@pytest.fixture(scope="module")
def directory(tmp_path_factory) -> Path:
    sites = federation(4, site_2=failing("no disk", rounds=(2,)), site_4=SimulatedSite(silent=True))
    where = tmp_path_factory.mktemp("run") / "run"
    return journal(where, sites, evaluation={"sites_every": 1, "centre_every": 3}, round={"deadline_s": 20.0})


def rows(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


def test_the_json_holds_all_facts(directory: Path) -> None:
    facts = gather(directory)
    document = json.loads(export.as_json(facts))
    assert document["format"] == export.JSON_FORMAT
    assert set(document) == {"format", "fedfleet"} | {field.name for field in dataclasses.fields(Facts)}
    assert document["run"]["started"] == facts.run.started.isoformat()
    assert [len(entry["answers"]) for entry in document["rounds"]] == [len(entry.answers) for entry in facts.rounds]
    failed = next(a for a in document["rounds"][1]["answers"] if a["outcome"] == "failed")
    assert failed["reason"] == "no disk"
    assert "num_examples" not in failed


def test_numbers_that_are_not_finite_are_null_in_json(directory: Path) -> None:
    facts = gather(directory)
    measured = dataclasses.replace(facts.rounds[0].measured["training"], metrics={"loss": math.nan})
    broken = dataclasses.replace(facts.rounds[0], measured={"training": measured})
    document = json.loads(export.as_json(dataclasses.replace(facts, rounds=(broken,))), parse_constant=pytest.fail)
    assert document["rounds"][0]["measured"]["training"]["metrics"] == {"loss": None}


def test_the_csv_of_rounds_has_a_row_a_round(directory: Path) -> None:
    facts, found = gather(directory), rows(export.rounds_csv(gather(directory)))
    assert [row["number"] for row in found] == ["1", "2", "3"]
    assert [row["survivors"] for row in found] == ["3", "2", "3"]
    assert [row["centre_accuracy"] for row in found] == ["", "", "0.5"]
    for row, entry in zip(found, facts.rounds, strict=True):
        assert float(row["training_loss"]) == pytest.approx(entry.measured["training"].metrics["loss"], rel=1e-8)


def test_the_csv_of_sites_has_a_row_a_request(directory: Path) -> None:
    facts, found = gather(directory), rows(export.sites_csv(gather(directory)))
    assert len(found) == sum(len(entry.answers) for entry in facts.rounds)
    outcomes = {(row["round"], row["phase"], row["site"]): row["outcome"] for row in found}
    assert outcomes["2", "train", "site-2"] == "failed"
    assert outcomes["3", "evaluate", "site-4"] == "silent"
    assert sum(int(row["sent_bytes"]) for row in found) == sum(entry.sent_bytes for entry in facts.rounds)


@pytest.mark.parametrize("reason", ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1"])
def test_a_text_that_looks_like_a_formula_stays_a_text(tmp_path: Path, reason: str) -> None:
    facts = gather(journal(tmp_path / "run", federation(3, site_2=failing(reason)), rounds=1))
    (failed,) = [row for row in rows(export.sites_csv(facts)) if row["outcome"] == "failed"]
    assert failed["reason"] == f"'{reason}"
    assert json.loads(export.as_json(facts))["reasons"][0]["reason"] == reason


def test_the_picture_is_a_png_also_of_a_run_that_measured_nothing(tmp_path: Path, directory: Path) -> None:
    empty = journal(tmp_path / "run", rounds=1)
    cut(empty, 4)
    for where in (directory, empty):
        assert cli.run(["report", str(where), "--out", str(tmp_path / "report.png")]) == 0
        with Image.open(tmp_path / "report.png") as picture:
            assert picture.format == "PNG"
            assert picture.width >= 1200


def test_every_key_is_explained_in_the_guide() -> None:
    guide = GUIDE.read_text()
    for cls in (Run, Session, Round, Attempt, Measured, Answer, SiteSummary, Reason):
        for field in dataclasses.fields(cls):
            assert f"`{field.name}`" in guide, f"{cls.__name__}.{field.name}"


def test_the_command_writes_the_page_into_the_journal_and_prints_its_path(directory: Path, capsys) -> None:
    assert cli.run(["report", str(directory)]) == 0
    assert capsys.readouterr().out == f"{directory / 'report.html'}\n"
    assert (directory / "report.html").read_text().startswith("<!doctype html>")


def test_the_command_writes_all_formats_into_a_directory(directory: Path, tmp_path: Path, capsys) -> None:
    assert cli.run(["report", str(directory), "--format", "all", "--out", str(tmp_path), "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert (document["run"], document["status"], document["rounds"]) == ("test", "completed", 3)
    names = ["report.html", "report.json", "report-rounds.csv", "report-sites.csv", "report.png"]
    assert [Path(file["path"]).name for file in document["files"]] == names
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(names)


def test_the_name_of_the_file_chooses_the_format(directory: Path, tmp_path: Path) -> None:
    assert cli.run(["report", str(directory), "--out", str(tmp_path / "facts.json")]) == 0
    assert json.loads((tmp_path / "facts.json").read_text())["run"]["name"] == "test"
    assert cli.run(["report", str(directory), "--out", str(tmp_path / "table.csv")]) == 0
    assert (tmp_path / "table-rounds.csv").exists()
    assert cli.run(["report", str(directory), "--out", str(tmp_path / "page.htm"), "--format", "html"]) == 0
    assert (tmp_path / "page.htm").read_text().startswith("<!doctype html>")


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        (["nowhere"], 2, "nowhere is not a journal"),
        (["{run}", "--out", "{tmp}/a.html", "--format", "all"], 2, "several formats do not go into one file"),
        (["{run}", "--out", "{tmp}/none/a.html"], 1, "cannot write"),
        (["{run}", "--format", "pdf"], 2, "'pdf' is not one of"),
        (["{run}", "--format", "csv", "--open"], 2, "--open needs the page"),
    ],
    ids=["no journal", "one file", "no directory", "unknown format", "nothing to open"],
)
def test_what_cannot_be_done_is_said_in_one_line(directory, tmp_path, capsys, arguments, status, words) -> None:
    filled = [argument.format(run=directory, tmp=tmp_path) for argument in arguments]
    assert cli.run(["report", *filled]) == status
    first = capsys.readouterr().err.splitlines()[0]
    assert first.startswith("fl: error: ")
    assert words in first
    assert list(tmp_path.iterdir()) == []


def test_a_png_without_matplotlib_says_what_to_install_and_writes_nothing(
    directory: Path, tmp_path: Path, capsys, monkeypatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)  # as if it were not installed
    assert cli.run(["report", str(directory), "--format", "all", "--out", str(tmp_path)]) == 2
    assert capsys.readouterr().err.splitlines()[1] == "fl: hint: pip install 'fedfleet[plot]'"
    assert list(tmp_path.iterdir()) == []


def test_the_page_is_opened_when_asked(directory: Path, tmp_path: Path, monkeypatch) -> None:
    opened = tmp_path / "opened"
    browser = tmp_path / "browser"
    browser.write_text(f'#!/bin/sh\necho "$1" > {opened}\n')
    browser.chmod(0o755)
    monkeypatch.setenv("BROWSER", f"{browser} %s")
    monkeypatch.setattr("webbrowser._tryorder", None)  # it remembers what it found
    assert cli.run(["report", str(directory), "--open"]) == 0
    assert opened.read_text().strip() == (directory / "report.html").as_uri()
