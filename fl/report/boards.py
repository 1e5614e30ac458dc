"""Curves of runs for TensorBoard and MLflow; both are imported where they are needed, and only there."""

from __future__ import annotations

import dataclasses
import importlib.util
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fl.errors import ConfigError, StorageError
from fl.files import storage_error

NEEDED = {
    "pandas": ("a data frame", "pip install pandas"),
    "pyarrow": ("a Parquet file", "pip install 'fedfleet[torch]'"),
    "tensorboard": ("an export for TensorBoard", "pip install 'fedfleet[tensorboard]'"),
    "mlflow": ("an export to MLflow", "pip install 'fedfleet[mlflow]'"),
}
"""What needs a package, and how to install that."""

MLFLOW_BATCH = 1000
"""Metrics that its server takes at once."""

OURS = ".fedfleet"
"""Ending of the event files that an export makes, and replaces when it is made again."""


@dataclasses.dataclass(frozen=True, slots=True)
class Scalar:
    """One value of a curve: its round, its time in seconds since 1970, ``<metric>/<place>``, and what it is."""

    round: int
    at_s: float
    tag: str
    value: float


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Drawn:
    """A run as boards have it.

    Attributes:
        name: As it is shown.
        id: What it is known by when it is exported again.
        began_s: Seconds since 1970.
        status: Of the run, in our words.
        settings: Parameters, as text.
        tags: Other facts about it.
        scalars: Its curves; values are finite.
    """

    name: str
    id: str
    began_s: float
    status: str
    settings: Mapping[str, str]
    tags: Mapping[str, str]
    scalars: Sequence[Scalar]


def require(package: str) -> None:
    """Refuse what needs a package that is not installed.

    Raises:
        ConfigError: With what to install.
    """
    if importlib.util.find_spec(package) is None:
        what, install = NEEDED[package]
        raise ConfigError(f"{what} needs {package}, which is not installed", hint=install)


def to_tensorboard(run: Drawn, directory: Path) -> None:
    """Write a run's curves for ``tensorboard --logdir``. The step is the round.

    An export that is made again replaces the one before.

    Raises:
        ConfigError: If tensorboard is not installed.
        StorageError: If the files cannot be written.
    """
    require("tensorboard")
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.compat.proto.summary_pb2 import Summary
    from tensorboard.summary.writer.event_file_writer import EventFileWriter

    try:
        directory.mkdir(parents=True, exist_ok=True)
        for old in directory.glob(f"events.out.tfevents.*{OURS}"):
            old.unlink()
        writer = EventFileWriter(str(directory), filename_suffix=OURS)
        for one in run.scalars:
            summary = Summary(value=[Summary.Value(tag=one.tag, simple_value=one.value)])
            writer.add_event(Event(wall_time=one.at_s, step=one.round, summary=summary))
        writer.close()
    except OSError as err:
        raise storage_error(directory, err) from err


def to_mlflow(runs: Sequence[Drawn], experiment: str, *, tracking_uri: str | None = None) -> list[str]:
    """The runs as those of an MLflow experiment: settings as parameters, curves as metrics. The step is the round.

    An export that is made again replaces the one before.

    Args:
        runs: Which.
        experiment: Its name; made if it is not there.
        tracking_uri: Of the server; MLflow's own default without it.

    Returns:
        The id of each MLflow run.

    Raises:
        ConfigError: If mlflow is not installed.
        StorageError: If MLflow refuses.
    """
    require("mlflow")
    from mlflow.exceptions import MlflowException
    from mlflow.tracking import MlflowClient

    try:
        client = MlflowClient(tracking_uri)
        known = client.get_experiment_by_name(experiment)
        experiment_id = known.experiment_id if known else client.create_experiment(experiment)
        return [_log(client, experiment_id, run) for run in runs]
    except MlflowException as err:
        raise StorageError(f"cannot export to mlflow: {str(err).splitlines()[0]}") from err


def _log(client: Any, experiment_id: str, run: Drawn) -> str:
    """Make an MLflow run of a run, in place of one that was made of it before."""
    from mlflow.entities import Metric, Param

    quote = '"' if "'" in run.id else "'"
    for old in client.search_runs([experiment_id], f"tags.journal = {quote}{run.id}{quote}"):
        client.delete_run(old.info.run_id)
    tags = {"journal": run.id, **run.tags}
    made = client.create_run(experiment_id, start_time=int(run.began_s * 1000), tags=tags, run_name=run.name)
    run_id = str(made.info.run_id)
    client.log_batch(run_id, params=[Param(key, value) for key, value in run.settings.items()])
    metrics = [Metric(one.tag, one.value, int(1000 * one.at_s), one.round) for one in run.scalars]
    for first in range(0, len(metrics), MLFLOW_BATCH):
        client.log_batch(run_id, metrics=metrics[first : first + MLFLOW_BATCH])
    status = {"completed": "FINISHED", "failed": "FAILED", "interrupted": "FAILED", "stopped": "KILLED"}.get(run.status)
    if status:
        client.set_terminated(run_id, status)
    return run_id
