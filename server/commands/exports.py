"""``fl run export``: the curves of a control room's runs as CSV, for TensorBoard and for MLflow."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from fl import __version__, console
from fl.errors import ConfigError
from fl.files import write_atomic
from fl.report import boards
from fl.report.export import table_csv
from fl.report.words import plural
from server.views.runs import flatten

if TYPE_CHECKING:
    from server.client import Client
    from server.views.rounds import RoundRow
    from server.views.usage import Amount

COLUMNS = ("run", "round", "at_s", "place", "metric", "value")
"""``place`` is where a metric was measured, ``round`` for facts of a round, ``used`` for what the run used in all;
``at_s`` is in seconds since 1970."""


def check(to: str, out: Path | None) -> None:
    """Refuse what cannot be written, before anything is asked.

    Raises:
        ConfigError: If a package is missing, or ``out`` does not go with the format.
    """
    if to != "csv":
        boards.require(to)
    if to == "mlflow" and out is not None:
        raise ConfigError(
            "--out does not go with --to mlflow", hint="MLFLOW_TRACKING_URI names its server or directory"
        )
    if to == "csv" and out is not None and out.is_dir():
        raise ConfigError(f"{out} is a directory", hint=f"--out {out}/runs.csv")
    if to == "tensorboard" and out is not None and out.is_file():
        raise ConfigError(f"{out} is a file, and TensorBoard reads a directory")


def drawn(room: Client, reference: str) -> boards.Drawn:
    """A run of a control room, as boards have it; times are those at which rounds were committed."""
    detail = room.run(reference)
    row = detail.row
    rounds = {entry.number: entry for entry in room.rounds(row.name)}
    began_s = min((entry.opened_s for entry in rounds.values()), default=row.submitted_s)
    scalars = [scalar for entry in sorted(rounds.values(), key=_number) for scalar in _of_round(entry)]
    for key, points in sorted(room.curves(row.name).items()):
        place, _, metric = key.partition("/")
        for number, value in points:
            at_s = _time(rounds[number]) if number in rounds else began_s
            if value is not None and math.isfinite(value):
                scalars.append(boards.Scalar(number, at_s, f"{metric}/{place}", value))
    last = max(rounds, default=0)
    scalars += _of_usage(detail.usage, last, _time(rounds[last]) if rounds else began_s)
    return boards.Drawn(
        name=row.name,
        id=row.name,
        began_s=began_s,
        status=row.state,
        settings=dict(flatten(detail.config)),
        tags={"project": row.project, "submitted_by": row.submitted_by, "fedfleet": __version__},
        scalars=scalars,
    )


def write(runs: Sequence[boards.Drawn], to: str, out: Path | None, experiment: str, *, as_json: bool) -> None:
    """Write runs, and say where they are."""
    if to == "mlflow":
        ids = boards.to_mlflow(runs, experiment)
        if as_json:
            console.print_json({"experiment": experiment, "mlflow_runs": ids})
        else:
            console.say(f"the MLflow experiment {experiment} has {plural(len(ids), 'run')} of it")
        return
    path = out or Path("runs.csv" if to == "csv" else "tensorboard")
    if to == "csv":
        write_atomic(path, table_csv(COLUMNS, (row for run in runs for row in _rows(run))))
    else:
        for run in runs:
            boards.to_tensorboard(run, path / run.name)
    if as_json:
        console.print_json({"path": str(path), "runs": [run.name for run in runs]})
    else:
        console.out.print(str(path), markup=False, soft_wrap=True)


def _rows(run: boards.Drawn) -> Iterator[tuple[object, ...]]:
    for one in sorted(run.scalars, key=lambda scalar: (scalar.round, scalar.tag)):
        metric, _, place = one.tag.rpartition("/")
        yield run.name, one.round, one.at_s, place, metric, one.value


def _of_round(entry: RoundRow) -> Iterator[boards.Scalar]:
    facts = {
        "took_s": entry.took_s,
        "fold_s": entry.fold_s,
        "survivors": entry.survivors,
        "cohort": entry.cohort,
        "received_bytes": entry.received_bytes,
    }
    for name, value in facts.items():
        if value is not None:
            yield boards.Scalar(entry.number, _time(entry), f"{name}/round", value)


def _of_usage(used: Amount, round: int, at_s: float) -> Iterator[boards.Scalar]:
    facts = {"energy_j": used.energy_j, "cpu_s": used.cpu_s, "gpu_s": used.gpu_s, f"cost_{used.currency}": used.cost}
    for name, value in facts.items():
        if value is not None:
            yield boards.Scalar(round, at_s, f"{name}/used", value)


def _number(entry: RoundRow) -> int:
    return entry.number


def _time(entry: RoundRow) -> float:
    return entry.committed_s or entry.opened_s
