"""Every measurement of some runs for other programs: a pandas frame, Parquet, CSV, TensorBoard, MLflow.

The long format: a row a run, round, place and metric, with what the run had cost by then. With ``sites`` there are
rows for single sites too. pandas, pyarrow, tensorboard and mlflow are imported where they are needed, and only there.
"""

from __future__ import annotations

import io
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fl.errors import ConfigError
from fl.files import write_atomic
from fl.report import boards
from fl.report.boards import require
from fl.report.export import table_csv
from simulations.report.comparison import Comparison
from simulations.report.comparison import rows as comparison_rows
from simulations.report.find import find
from simulations.report.trial import PLACES, Point, Trial
from simulations.report.variants import Variant, text_of, variants

if TYPE_CHECKING:
    import pandas as pd

COLUMNS = {
    "run": "string",
    "variant": "string",
    "seed": "int64",
    "round": "int64",
    "place": "string",
    "site": "string",
    "metric": "string",
    "value": "float64",
    "simulated_s": "float64",
    "size_bytes": "int64",
    "energy_j": "float64",
}
"""Columns and their types. ``run`` is the journal's directory; ``variant`` what runs with other seeds share; ``place``
``centre``, ``sites`` or ``training``; ``site`` is empty in a mean; ``simulated_s`` and ``energy_j`` are empty where
nothing is simulated that takes time; ``size_bytes`` is the traffic of training, both ways, until the round."""

MOST_LETTERS = 50
"""Of a label in the name of a directory; it has 255 bytes, and a letter up to 4."""


def frame(directories: Path | Sequence[Path], *, sites: bool = False) -> pd.DataFrame:
    """Every measurement as a data frame in the long format.

    Args:
        directories: Journals, and directories of sweeps; they may be written meanwhile.
        sites: Also what single sites measured in evaluations.

    Returns:
        A frame with ``COLUMNS``, by run and round.

    Raises:
        JournalError: If one is no journal and holds none, or cannot be read.
        ConfigError: If pandas is not installed.

    Example:
        >>> from simulations.report import export                                          # doctest: +SKIP
        >>> data = export.frame(Path("runs/sweep"))                                        # doctest: +SKIP
        >>> data[data.metric == "accuracy"].groupby(["variant", "round"]).value.mean()     # doctest: +SKIP
    """
    require("pandas")
    import pandas as pd

    rows = _rows(variants(find(directories).trials), sites=sites)
    return pd.DataFrame.from_records(list(rows), columns=list(COLUMNS)).astype(COLUMNS)


def table(comparison: Comparison) -> pd.DataFrame:
    """A comparison as a data frame: a row a variant, a mean and a deviation a figure.

    Raises:
        ConfigError: If pandas is not installed.
    """
    require("pandas")
    import pandas as pd

    columns, rows = comparison_rows(comparison)
    return pd.DataFrame(rows, columns=columns).set_index("variant")


def to_parquet(directories: Path | Sequence[Path], path: Path, *, sites: bool = True) -> Path:
    """The same as a Parquet file.

    Returns:
        The file's path.

    Raises:
        JournalError: As for ``frame``.
        ConfigError: If pyarrow is not installed.
        StorageError: If the file cannot be written.
    """
    require("pyarrow")
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = list(_rows(variants(find(directories).trials), sites=sites))
    columns = zip(*rows, strict=True) if rows else ([] for _ in COLUMNS)
    types = {"string": pa.string(), "int64": pa.int64(), "float64": pa.float64()}
    content = io.BytesIO()
    found = pa.table({
        name: pa.array(list(values), types[kind])
        for (name, kind), values in zip(COLUMNS.items(), columns, strict=True)
    })  # fmt: skip
    pq.write_table(found, content)
    write_atomic(path, content.getvalue())
    return path


def to_csv(directories: Path | Sequence[Path], path: Path, *, sites: bool = True) -> Path:
    """The same as a CSV file.

    Returns:
        The file's path.

    Raises:
        JournalError, StorageError: As for ``to_parquet``.
    """
    write_atomic(path, table_csv(list(COLUMNS), _rows(variants(find(directories).trials), sites=sites)))
    return path


def to_tensorboard(directories: Path | Sequence[Path], path: Path) -> Path:
    """The curves for ``tensorboard --logdir``: a run each in ``<variant>/seed-<seed>``, tags ``<metric>/<place>``.

    The step is the round, the time that of the simulation. An export that is made again replaces the one before.

    Returns:
        The directory.

    Raises:
        JournalError: As for ``frame``.
        ConfigError: If tensorboard is not installed.
        StorageError: If the files cannot be written.
    """
    require("tensorboard")
    everyone = variants(find(directories).trials)
    for name, variant in zip(directory_names([one.label for one in everyone]), everyone, strict=True):
        for trial in variant.trials:
            boards.to_tensorboard(_drawn(variant, trial), path / name / f"seed-{trial.facts.run.seed}")
    return path


def to_mlflow(directories: Path | Sequence[Path], experiment: str, *, tracking_uri: str | None = None) -> list[str]:
    """The runs as those of an MLflow experiment: settings as parameters, curves as metrics ``<metric>/<place>``.

    The step is the round, the time that of the simulation. An export that is made again replaces the one before.

    Args:
        directories: As for ``frame``.
        experiment: Its name; made if it is not there.
        tracking_uri: Of the server; MLflow's own default without it.

    Returns:
        The id of each MLflow run.

    Raises:
        JournalError: As for ``frame``.
        ConfigError: If mlflow is not installed.
        StorageError: If MLflow refuses.
    """
    require("mlflow")
    runs = [_drawn(variant, trial) for variant in variants(find(directories).trials) for trial in variant.trials]
    return boards.to_mlflow(runs, experiment, tracking_uri=tracking_uri)


def check(path: Path) -> None:
    """Refuse a path that ``write`` cannot export to, before anything is done.

    Raises:
        ConfigError: On an unknown ending, or if what the format needs is not installed.
    """
    kind = _kind(path)
    if kind == "parquet":
        require("pyarrow")
    if kind == "tensorboard":
        require("tensorboard")


def write(directories: Path | Sequence[Path], path: Path) -> Path:
    """Export by the path's ending: ``.parquet``, ``.csv``, or none, a directory, for TensorBoard.

    Returns:
        The path.

    Raises:
        ConfigError, JournalError, StorageError: As the single formats do.
    """
    formats = {"parquet": to_parquet, "csv": to_csv, "tensorboard": to_tensorboard}
    return formats[_kind(path)](directories, path)


def directory_names(labels: Sequence[str]) -> list[str]:
    """Labels as names of directories, each another.

    Example:
        >>> directory_names(["fedadam, learning_rate 0.1", "a/b", "a:b", ".."])
        ['fedadam, learning_rate 0.1', 'a_b', 'a_b 3', 'run']
    """
    names: list[str] = []
    for number, label in enumerate(labels, 1):
        letters = (letter if letter.isalnum() or letter in "-_., " else "_" for letter in label[:MOST_LETTERS])
        name = "".join(letters).strip(". ") or "run"
        while name in names:
            name = f"{name} {number}"
        names.append(name)
    return names


def _kind(path: Path) -> str:
    ending = path.suffix[1:].lower()
    if path.is_dir() or not ending:
        return "tensorboard"
    if ending not in ("parquet", "csv"):
        raise ConfigError(f"cannot export to {path}", hint="a file .parquet or .csv, or a directory for TensorBoard")
    return ending


def _rows(everyone: Sequence[Variant], *, sites: bool) -> Iterator[tuple[Any, ...]]:
    """By run, round, place and metric, in the order of ``COLUMNS``."""
    for variant in everyone:
        for trial in variant.trials:
            head = (str(trial.directory), variant.label, trial.facts.run.seed)
            for point in trial.points:
                cost = (point.at_s if trial.is_timed else None, point.size_bytes, point.energy_j)
                for place in PLACES:
                    for metric, value in sorted(point.metrics.get(place, {}).items()):
                        yield (*head, point.round, place, None, metric, value, *cost)
                for site, metrics in sorted(trial.at_sites.get(point.round, {}).items()) if sites else ():
                    for metric, value in sorted(metrics.items()):
                        yield (*head, point.round, "sites", site, metric, value, *cost)


def _scalars(trial: Trial) -> Iterator[tuple[Point, str, float]]:
    """What is drawn over the rounds, each with its tag; what is not finite is left out."""
    for point in trial.points:
        for place in PLACES:
            for metric, value in sorted(point.metrics.get(place, {}).items()):
                if math.isfinite(value):
                    yield point, f"{metric}/{place}", value
        yield point, "cost/size_bytes", point.size_bytes
        if point.energy_j is not None:
            yield point, "cost/energy_j", point.energy_j
        if trial.is_timed:
            yield point, "cost/simulated_s", point.at_s


def _drawn(variant: Variant, trial: Trial) -> boards.Drawn:
    """A run as boards have it; times are those of the simulation."""
    run = trial.facts.run
    began_s = run.started.timestamp()
    settings = {"seed": run.seed, "task": run.task, "strategy": run.strategy, **variant.settings}
    return boards.Drawn(
        name=f"{variant.label}, seed {run.seed}",
        id=run.directory,
        began_s=began_s,
        status=run.status,
        settings={key: text_of(value) for key, value in settings.items()},
        tags={"variant": variant.label, "fedfleet": run.fedfleet},
        scalars=[boards.Scalar(point.round, began_s + point.at_s, tag, value) for point, tag, value in _scalars(trial)],
    )
