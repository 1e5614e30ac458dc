"""``fl run export`` over the API: what is written is what the store has, also a second time."""

import csv
import time

import pytest

from fl.errors import ConfigError
from server.client import Client
from server.commands import exports
from server.store.runs import Metric
from server.views import runs as views
from tests.server import seeds
from tests.server.api import kit


@pytest.fixture(scope="module")
def room(tmp_path_factory):
    folder = tmp_path_factory.mktemp("room")
    made = kit.open_room(folder)
    seeds.fill(made.store, folder / "models", time.time(), seeds.Size(sites=6, rounds=5, cohort=4))
    with made.store.write() as session:
        session.add(Metric(run=1, place="sites", name="spoilt", round=1, value=float("inf")))
    yield made
    made.store.close()


@pytest.fixture(scope="module")
def drawn(room):
    with Client("https://fl.example.org", kit.LOCAL_TOKEN, transport=room.client()._transport) as client:
        return exports.drawn(client, "1")


@pytest.fixture(scope="module")
def accuracy(room):
    """Round and value, from the store."""
    with room.store.read() as session:
        return list(views.curves(session, "1")["sites/accuracy"])


def test_csv_has_a_row_a_measurement_with_its_place_and_time(tmp_path, drawn, accuracy, capsys):
    path = tmp_path / "runs.csv"
    exports.write([drawn], "csv", path, "", as_json=False)
    assert capsys.readouterr().out.strip() == str(path)
    with path.open() as lines:
        rows = list(csv.DictReader(lines))
    found = [row for row in rows if (row["place"], row["metric"]) == ("sites", "accuracy")]
    assert [(int(row["round"]), float(row["value"])) for row in found] == [
        (number, pytest.approx(value, rel=1e-8)) for number, value in accuracy
    ]
    assert {row["run"] for row in rows} == {drawn.name}
    assert {row["metric"] for row in rows if row["place"] == "used"} >= {"energy_j", "gpu_s"}
    assert "spoilt" not in {row["metric"] for row in rows}  # boards cannot draw what is no number
    assert [float(row["at_s"]) for row in found] == sorted(float(row["at_s"]) for row in found)


def test_tensorboard_reads_the_curve_once_after_two_exports(tmp_path, drawn, accuracy):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    for _ in range(2):
        exports.write([drawn], "tensorboard", tmp_path / "board", "", as_json=False)
    board = EventAccumulator(str(tmp_path / "board" / drawn.name))
    board.Reload()
    found = [(one.step, one.value) for one in board.Scalars("accuracy/sites")]
    assert found == [(number, pytest.approx(value, rel=1e-6)) for number, value in accuracy]


def test_what_cannot_be_written_is_said_before_anything_is_asked(tmp_path, monkeypatch):
    with pytest.raises(ConfigError, match="is a directory"):
        exports.check("csv", tmp_path)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match="needs mlflow, which is not installed"):
        exports.check("mlflow", None)


def test_mlflow_has_the_run_once_after_two_exports(tmp_path, drawn, accuracy, monkeypatch):
    pytest.importorskip("mlflow", reason="mlflow is not installed: pip install 'fedfleet[mlflow]'")
    from mlflow.tracking import MlflowClient

    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", (tmp_path / "mlruns").as_uri())
    for _ in range(2):
        exports.write([drawn], "mlflow", None, "digits", as_json=False)
    client = MlflowClient()
    (run,) = client.search_runs([client.get_experiment_by_name("digits").experiment_id])
    history = client.get_metric_history(run.info.run_id, "accuracy/sites")
    assert [(one.step, one.value) for one in history] == [tuple(point) for point in accuracy]
    assert run.data.tags["project"] == "default"
