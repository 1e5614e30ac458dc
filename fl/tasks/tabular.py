"""The built-in task ``tabular``: a table at each site, some columns in, one column out.

Shape letters: N rows, C columns.
"""

from __future__ import annotations

import dataclasses
import itertools
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from fl.arrays import F32
from fl.config import check_range
from fl.errors import ConfigError, TaskError
from fl.tasks import shards, tables
from fl.tasks.base import Site, Task
from fl.tasks.extras import require
from fl.tasks.tables import F64, I64

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor, nn
    from torch.utils.data import Dataset


SHARD = "shard.parquet"
"""Name of the table that ``write_shard`` writes."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Tabular(Task):
    """A CSV or Parquet table at each site: classification or regression by a small network.

    A site's data is the one table in its data directory; a site without one takes its part of ``path``. Each
    site standardises its columns with the mean and deviation of its own training rows, so these never leave
    it.
    """

    target: str
    """The column to predict."""

    columns: tuple[str, ...]
    """The columns to predict from; their values must be numbers."""

    classes: tuple[str | int | float | bool, ...] = ()
    """The values that the target takes, in the order of the model's outputs; without them it is a number."""

    hidden: tuple[int, ...] = (64, 32)
    """Widths of the hidden layers; none makes the model linear."""

    missing: Literal["refuse", "mean"] = "refuse"
    """What to do with an empty value: refuse the table, or take the mean of the site's column."""

    target_mean: float = 0.0
    """For a number: what to subtract before training, the same at all sites."""

    target_std: float = 1.0
    """For a number: what to divide by before training, the same at all sites."""

    path: Path | None = None
    """A table that sites without a data directory share."""

    centre: Path | None = None
    """A table that the centre evaluates on; it is standardised by itself."""

    separator: str = ","
    """Between the values of a CSV file."""

    def __post_init__(self) -> None:
        names = [tables.as_text(value) for value in self.classes]
        if not self.columns:
            raise ConfigError("task.columns is empty", hint='name at least one: columns = ["age", "weight"]')
        for key, values in (("columns", list(self.columns)), ("classes", [str(name) for name in names])):
            if twice := next((value for value in values if values.count(value) > 1), None):
                raise ConfigError(f"task.{key} names {twice} twice")
        if self.target in self.columns:
            raise ConfigError(f"task.columns names {self.target}, which is the target")
        if len(names) == 1:
            raise ConfigError(f"task.classes names only {names[0]}", hint="name two, or none to predict a number")
        for width in self.hidden:
            check_range("task.hidden", width, at_least=1)
        check_range("task.target_std", self.target_std, above=0)
        check_range("task.target_mean", self.target_mean)
        if len(self.separator) != 1:
            raise ConfigError(f"task.separator is {self.separator!r}, must be one character")

    def model(self) -> nn.Module:
        """Linear layers with ReLU between them; one output a class, or a single one for a number."""
        require("torch")
        from torch import nn

        widths = [len(self.columns), *self.hidden]
        layers: list[nn.Module] = []
        for width, following in itertools.pairwise(widths):
            layers += [nn.Linear(width, following), nn.ReLU()]
        return nn.Sequential(*layers, nn.Linear(widths[-1], len(self.classes) or 1))

    def train_data(self, site: Site) -> Dataset[Any]:
        """Four fifths of the site's rows."""
        return self._at_site(site, "training")

    def evaluation_data(self, site: Site) -> Dataset[Any]:
        """The other fifth of the site's rows, standardised as those for training."""
        return self._at_site(site, "evaluation")

    def centre_data(self) -> Dataset[Any] | None:
        """The rows of ``task.centre``."""
        if self.centre is None:
            return None
        inputs, targets = self._examples(self.centre)
        return _dataset(_standardised(inputs, by=inputs), targets)

    def loss(self, model: nn.Module, inputs: Tensor, targets: Tensor) -> Tensor:
        """Cross entropy, or the squared error in units of ``target_std``."""
        from torch.nn import functional

        if self.classes:
            return super().loss(model, inputs, targets)
        return functional.mse_loss(model(inputs).squeeze(1), targets)

    def metrics(self, outputs: Tensor, targets: Tensor) -> Mapping[str, float]:
        """The accuracy, or the mean absolute error ``mae`` in the target's own unit."""
        if self.classes:
            return super().metrics(outputs, targets)
        return {"mae": (outputs.squeeze(1) - targets).abs().mean().item() * self.target_std}

    def labels(self, source: Path | None) -> I64:
        """The class of each row, or the tenth of all rows that its number falls into."""
        path = self._source(source)
        table = tables.read(path, [self.target], separator=self.separator)
        if self.classes:
            return self._targets(table, path)
        numbers = self._targets(table, path)
        tenths = np.quantile(numbers, np.linspace(0.1, 0.9, 9)) if len(numbers) else []
        return np.searchsorted(tenths, numbers).astype(np.int64)

    def write_shard(self, source: Path | None, indices: I64, directory: Path) -> None:
        """Write rows as a site's table, in the columns that the task names."""
        path = self._source(source)
        table = tables.read(path, [*self.columns, self.target], separator=self.separator)
        from pyarrow import parquet

        parquet.write_table(table.take(indices), directory / SHARD)

    def _source(self, source: Path | None) -> Path:
        path = source or self.path
        if path is None:
            raise TaskError("the task tabular has no table to divide", hint='set task.path: path = "all.csv"')
        return path

    def _at_site(self, site: Site, part: shards.Part) -> Dataset[Any]:
        if site.data_dir is not None:
            path = tables.find(site.data_dir, f"site {site.id}")
            inputs, targets = self._examples(path)
        elif self.path is not None:
            path = self.path
            inputs, targets = self._examples(path)
            mine = shards.partition(len(targets), site)
            inputs, targets = inputs[mine], targets[mine]
        else:
            raise TaskError(
                f"site {site.id} has no data directory, and task.path is not set",
                hint="give the directory that holds its table",
            )
        training = shards.divide(len(targets), site, "training", where=path)
        chosen = training if part == "training" else shards.divide(len(targets), site, part)
        return _dataset(_standardised(inputs[chosen], by=inputs[training]), targets[chosen])

    def _examples(self, path: Path) -> tuple[F64, npt.NDArray[Any]]:
        """Inputs, float64, shape ``(N, C)``, NaN where a value is missing; targets, shape ``(N,)``."""
        table = tables.read(path, [*self.columns, self.target], separator=self.separator)
        inputs = np.empty((table.num_rows, len(self.columns)), np.float64)
        for place, column in enumerate(self.columns):
            inputs[:, place] = tables.numbers(table, column, path)
            self._check_missing(inputs[:, place], column, path)
        return inputs, self._targets(table, path)

    def _targets(self, table: Any, path: Path) -> npt.NDArray[Any]:
        if self.classes:
            names = [str(tables.as_text(value)) for value in self.classes]
            return tables.codes(table, self.target, names, path)
        numbers = tables.numbers(table, self.target, path)
        if np.isnan(numbers).any():
            raise TaskError(f"{path}: column {self.target} is empty in row {int(np.argmax(np.isnan(numbers))) + 1}")
        return ((numbers - self.target_mean) / self.target_std).astype(np.float32)

    def _check_missing(self, values: F64, column: str, path: Path) -> None:
        if self.missing == "refuse" and np.isnan(values).any():
            raise TaskError(
                f"{path}: column {column} is empty in row {int(np.argmax(np.isnan(values))) + 1}",
                hint='fill it, or set task.missing = "mean"',
            )


def _standardised(inputs: F64, *, by: F64) -> F32:
    """Columns with the mean and deviation of ``by`` taken out; missing values become 0, which is that mean."""
    known = ~np.isnan(by)
    counts = np.maximum(known.sum(axis=0), 1)
    mean = np.where(known, by, 0).sum(axis=0) / counts
    deviation = np.sqrt((np.where(known, by - mean, 0) ** 2).sum(axis=0) / counts)
    deviation[deviation == 0] = 1  # a constant column becomes 0, not a division by it
    standardised: F64 = np.nan_to_num((inputs - mean) / deviation, nan=0.0)
    return standardised.astype(np.float32)


def _dataset(inputs: F32, targets: npt.NDArray[Any]) -> Dataset[Any]:
    require("torch")
    import torch
    from torch.utils.data import TensorDataset

    return TensorDataset(torch.from_numpy(inputs), torch.from_numpy(targets))
