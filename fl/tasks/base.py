"""What a task is: a model, the data of a site, a loss and metrics.

A task is a frozen dataclass derived from ``Task``. Its fields are its options: the keys of the ``[task]``
table of a run file, checked by ``fl.config.load``. Three methods have to be written (``model``,
``train_data``,
``evaluation_data``); the rest has defaults that suit classification. A whole one fits into 40 lines::

    from dataclasses import dataclass

    import numpy as np
    import torch
    from torch import nn
    from torch.utils.data import TensorDataset

    from fl.tasks import Site, Task


    @dataclass(frozen=True)
    class Wards(Task):
        hidden: int = 32

        def model(self):
            return nn.Sequential(nn.Linear(8, self.hidden), nn.ReLU(), nn.Linear(self.hidden, 3))

        def train_data(self, site: Site):
            return self._read(site.data_dir / "train.npz")

        def evaluation_data(self, site: Site):
            return self._read(site.data_dir / "test.npz")

        def _read(self, path):
            with np.load(path) as file:
                return TensorDataset(torch.from_numpy(file["signs"]), torch.from_numpy(file["ward"]))

``examples/own_task`` is a whole one that runs. Rules that the rest of the system relies on:

* A dataset gives ``(input, target)`` pairs and has a length. Either may be a tensor, or a dict, tuple or list
  of tensors, as torch's default collation makes them.
* ``loss`` and ``metrics`` are means over the examples of the batch, so that batches may be cut in pieces.
* ``model`` may draw random numbers only from torch's, NumPy's and Python's global generators, which are
  seeded.
* Only the floating-point tensors of ``state_dict()`` travel (``fl.tasks.parameters``); data never does.
* Methods raise ``TaskError`` when the data at hand does not fit, with the path and the column or value at
  fault.
"""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from fl.errors import TaskError
from fl.tasks.training import TrainingConfig

if TYPE_CHECKING:
    from torch import Tensor, nn
    from torch.optim import Optimizer
    from torch.utils.data import Dataset


@dataclasses.dataclass(frozen=True, slots=True)
class Site:
    """What a task may know of the site that it runs on."""

    id: str
    """The site's name."""

    data_dir: Path | None = None
    """Where the site's own data lies; a task that finds it set reads nothing else."""

    partition_id: int = 0
    """Without a ``data_dir``: which part of the task's common data is this site's, counted from 0."""

    num_partitions: int = 1
    """Without a ``data_dir``: into how many parts the common data is cut."""

    examples: npt.NDArray[np.int64] | None = dataclasses.field(default=None, compare=False, repr=False)
    """Without a ``data_dir``: which examples of the common data are this site's, by their place in ``labels``,
    ascending; it then has no other part of them."""


@dataclasses.dataclass(frozen=True)
class Task(abc.ABC):
    """A learning problem that many sites solve together. The module's docstring says how to write one."""

    @abc.abstractmethod
    def model(self) -> nn.Module:
        """A fresh model, on the CPU, the same architecture at every site and at the centre."""

    @abc.abstractmethod
    def train_data(self, site: Site) -> Dataset[Any]:
        """The examples that this site trains on.

        Raises:
            TaskError: If the data is missing, unreadable or does not fit, or there are no examples.
        """

    @abc.abstractmethod
    def evaluation_data(self, site: Site) -> Dataset[Any]:
        """The examples that this site evaluates on, none of which it trains on.

        Raises:
            TaskError: If the data is missing, unreadable or does not fit.
        """

    def centre_data(self) -> Dataset[Any] | None:
        """Examples that the centre evaluates on and no site trains on; ``None`` if the centre has no data."""
        return None

    def loss(self, model: nn.Module, inputs: Any, targets: Any) -> Tensor:
        """The mean loss over the examples of a batch, a scalar with a gradient; by default cross entropy.

        Args:
            model: What ``model()`` returned, on the device, in training or evaluation mode.
            inputs: A batch of inputs, on the device.
            targets: A batch of targets, on the device; for the default, class numbers, int64, shape ``(N,)``.
        """
        from torch.nn import functional

        return functional.cross_entropy(model(inputs), targets)

    def optimiser(self, parameters: Iterable[nn.Parameter], training: TrainingConfig) -> Optimizer:
        """A fresh optimiser for one round; by default the one that the ``[training]`` table names."""
        from torch import optim

        rate, decay = training.learning_rate, training.weight_decay
        if training.optimiser == "adam":
            return optim.Adam(parameters, lr=rate, weight_decay=decay)
        if training.optimiser == "adamw":
            return optim.AdamW(parameters, lr=rate, weight_decay=decay)
        return optim.SGD(parameters, lr=rate, momentum=training.momentum, weight_decay=decay)

    def metrics(self, outputs: Any, targets: Any) -> Mapping[str, float]:
        """Means over the examples of a batch; by default the accuracy. The loop adds ``loss``.

        Args:
            outputs: What the model returned last in ``loss``, without gradients.
            targets: The targets of the same batch.
        """
        return {"accuracy": (outputs.argmax(dim=1) == targets).float().mean().item()}

    def labels(self, source: Path | None) -> npt.NDArray[Any]:
        """The label of each example of a common data set, shape ``(N,)``: what splits look at.

        Args:
            source: The data set, or ``None`` for the one that the task itself knows.

        Raises:
            TaskError: If the task cannot be divided among sites, or the data is unreadable.
        """
        raise self._indivisible()

    def write_shard(self, source: Path | None, indices: npt.NDArray[np.int64], directory: Path) -> None:
        """Write some examples of a common data set as one site's own data (its ``data_dir``).

        Args:
            source: As for ``labels``.
            indices: Which examples, by their place in ``labels``.
            directory: An existing directory, of which the task may use any name.

        Raises:
            TaskError: If the task cannot be divided among sites, or the data is unreadable.
        """
        raise self._indivisible()

    def _indivisible(self) -> TaskError:
        return TaskError(
            f"the task {type(self).__name__} cannot divide data among sites",
            hint="write its methods labels and write_shard, or give each site its own data directory",
        )
