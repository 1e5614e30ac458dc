"""Every measurement for other programs: the same numbers in every format."""

from __future__ import annotations

import csv
import importlib.util
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fl.errors import ConfigError, JournalError, StorageError
from simulations.report import compare, export
from simulations.report.find import find
from simulations.report.trial import PLACES

pd = pytest.importorskip("pandas")


def without(package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As if a package were not installed."""
    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: None if name == package else found(name, *rest)
    )


def test_a_frame_has_a_row_a_run_round_place_and_metric(sweep: Path) -> None:
    data = export.frame(sweep)
    assert list(data.columns) == list(export.COLUMNS)
    expected = [
        (str(trial.directory), trial.facts.run.seed, point.round, place, metric, value, point.at_s, point.size_bytes)
        for trial in find(sweep).trials
        for point in trial.points
        for place in PLACES
        for metric, value in sorted(point.metrics.get(place, {}).items())
    ]
    columns = ["run", "seed", "round", "place", "metric", "value", "simulated_s", "size_bytes"]
    assert list(data[columns].itertuples(index=False, name=None)) == expected
    assert set(data.variant) == {"fedadam", "fedavg"}
    assert data.site.isna().all()
    assert (data.groupby("run").energy_j.apply(lambda joules: joules.is_monotonic_increasing)).all()


def test_what_the_frame_says_is_what_the_comparison_says(sweep: Path) -> None:
    data = export.frame(sweep)
    last = data[(data.metric == "accuracy") & (data.place == "centre") & (data["round"] == 4)]
    means = last.groupby("variant").value.agg(["mean", "std"])
    for line in compare(sweep).lines:
        assert tuple(means.loc[line.variant.label]) == pytest.approx(
            (line.final["accuracy"].mean, line.final["accuracy"].std)
        )


def test_a_comparison_as_a_frame_has_a_row_a_variant(sweep: Path) -> None:
    comparison = compare(sweep, target=0.2)
    figures = export.table(comparison)
    assert list(figures.index) == ["fedadam", "fedavg"]
    for line in comparison.lines:
        assert figures.loc[line.variant.label, "accuracy"] == line.final["accuracy"].mean
        assert figures.loc[line.variant.label, "target"] == 0.2


def test_with_its_sites_the_frame_has_what_each_measured(run: Path) -> None:
    data = export.frame(run, sites=True)
    (trial,) = find(run).trials
    single = data[data.site.notna() & (data["round"] == 2) & (data.metric == "accuracy")]
    assert dict(zip(single.site, single.value, strict=True)) == {
        site: metrics["accuracy"] for site, metrics in trial.at_sites[2].items()
    }
    assert set(single.place) == {"sites"}


def test_a_run_whose_time_is_not_simulated_has_none(untimed: Path) -> None:
    data = export.frame(untimed)
    assert len(data) > 0
    assert data.simulated_s.isna().all()
    assert data.energy_j.isna().all()


def test_a_run_that_has_just_begun_has_an_empty_frame_and_file(run: Path, tmp_path: Path) -> None:
    begun = tmp_path / "begun"
    begun.mkdir()
    for name in ("config.json", "environment.json"):
        (begun / name).write_bytes((run / name).read_bytes())
    (begun / "events.jsonl").write_text((run / "events.jsonl").read_text().splitlines(keepends=True)[0])
    assert len(export.frame(begun)) == 0
    assert len(pd.read_parquet(export.to_parquet(begun, tmp_path / "begun.parquet"))) == 0


def test_parquet_and_csv_hold_the_frame(sweep: Path, tmp_path: Path) -> None:
    data = export.frame(sweep, sites=True)
    parquet = pd.read_parquet(export.write(sweep, tmp_path / "all.parquet"))
    pd.testing.assert_frame_equal(parquet.astype(data.dtypes.to_dict()), data)
    with export.write(sweep, tmp_path / "all.csv").open(newline="") as file:
        header, *rows = csv.reader(file)
    assert header == list(export.COLUMNS)
    assert len(rows) == len(data)
    assert [float(row[7]) for row in rows] == pytest.approx(list(data.value))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["all.csv", "all.parquet"]


def test_tensorboard_reads_the_curves_and_an_export_made_again_replaces_the_first(sweep: Path, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    for _ in range(2):
        assert export.write(sweep, tmp_path / "board") == tmp_path / "board"
    directories = sorted(path.parent for path in (tmp_path / "board").rglob("events.out.*"))
    assert [str(path.relative_to(tmp_path / "board")) for path in directories] == [
        "fedadam/seed-1",
        "fedadam/seed-2",
        "fedavg/seed-1",
        "fedavg/seed-2",
    ]
    board = EventAccumulator(str(tmp_path / "board" / "fedavg" / "seed-1")).Reload()
    trial = next(one for one in find(sweep).trials if one.directory.name == "strategy-fedavg_seed-1")
    curve = trial.curve("centre", "accuracy")
    scalars = board.Scalars("accuracy/centre")
    assert [scalar.step for scalar in scalars] == [point.round for point, _ in curve]
    assert [scalar.value for scalar in scalars] == pytest.approx([np.float32(value) for _, value in curve])
    assert scalars[-1].wall_time - scalars[0].wall_time == pytest.approx(curve[-1][0].at_s - curve[0][0].at_s, abs=0.01)
    assert [scalar.value for scalar in board.Scalars("cost/size_bytes")] == [point.size_bytes for point in trial.points]


@pytest.fixture
def mlflow(monkeypatch: pytest.MonkeyPatch) -> Any:
    """MLflow, which may write into a directory."""
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    return pytest.importorskip("mlflow", reason="mlflow is not installed: pip install 'fedfleet[mlflow]'")


def test_mlflow_has_a_run_a_seed_with_its_curves_also_after_a_second_export(
    sweep: Path, tmp_path: Path, mlflow: Any
) -> None:
    uri = (tmp_path / "mlruns").as_uri()
    export.to_mlflow(sweep, "strategies", tracking_uri=uri)
    ids = export.to_mlflow(sweep, "strategies", tracking_uri=uri)
    client = mlflow.tracking.MlflowClient(uri)
    there = client.search_runs([client.get_experiment_by_name("strategies").experiment_id])
    assert {run.info.run_id for run in there} == set(ids)
    assert len(ids) == 4
    last = client.get_run(ids[-1])
    assert last.data.params["strategy.name"] == "fedavg"
    assert last.info.status == "FINISHED"
    trial = next(one for one in find(sweep).trials if one.facts.run.directory == last.data.tags["journal"])
    history = client.get_metric_history(ids[-1], "accuracy/centre")
    assert [(one.step, one.value) for one in history] == [(p.round, v) for p, v in trial.curve("centre", "accuracy")]


def test_what_mlflow_refuses_is_one_line(sweep: Path, tmp_path: Path, mlflow: Any) -> None:
    with pytest.raises(StorageError, match=r"^cannot export to mlflow: [^\n]+$"):
        export.to_mlflow(sweep, "", tracking_uri=(tmp_path / "mlruns").as_uri())


@pytest.mark.parametrize("package", ["pandas", "pyarrow", "tensorboard", "mlflow"])
def test_what_is_not_installed_is_named_with_what_to_type(
    sweep: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, package: str
) -> None:
    without(package, monkeypatch)
    calls = {
        "pandas": lambda: export.frame(sweep),
        "pyarrow": lambda: export.check(tmp_path / "all.parquet"),
        "tensorboard": lambda: export.check(tmp_path / "board"),
        "mlflow": lambda: export.to_mlflow(sweep, "experiment"),
    }
    with pytest.raises(ConfigError, match=f"needs {package}, which is not installed") as raised:
        calls[package]()
    assert str(raised.value.hint).startswith("pip install ")
    assert list(tmp_path.iterdir()) == []


def test_another_ending_and_another_directory_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"cannot export to .*\.xlsx"):
        export.check(tmp_path / "all.xlsx")
    with pytest.raises(JournalError):
        export.frame(tmp_path)


@given(st.lists(st.text(min_size=1), unique=True))
def test_every_label_has_a_directory_of_its_own_that_leads_nowhere_else(labels: list[str]) -> None:
    names = export.directory_names(labels)
    assert len(names) == len(labels) == len(set(names))
    for name in names:
        assert Path(name).name == name not in ("", ".", "..")
        assert len(name.encode("utf-8", "surrogatepass")) < 255


def test_importing_the_report_needs_none_of_the_packages() -> None:
    packages = ("pandas", "pyarrow", "tensorboard", "mlflow", "matplotlib", "torch")
    script = (
        "import sys, simulations.report.export, simulations.report.page, simulations.report.plot; "
        f"print([name for name in {packages!r} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
