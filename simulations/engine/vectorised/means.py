"""What sites that train side by side measure: the means over each one's last epoch."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from fl.tasks.base import Task
from simulations.engine.vectorised.batch import Batch
from simulations.engine.vectorised.program import FEW, has_default

TOGETHER_BYTES = 16 << 20
"""Outputs of whole batches that are smaller than this together are measured at once."""


class Means:
    """The means over each lane's last epoch, of the loss and what the task measures.

    Args:
        task: Says what is measured.
        number: Lanes.
        device: Where they train.
    """

    def __init__(self, task: Task, number: int, device: torch.device) -> None:
        self._task = task
        self._is_default = has_default(task, "metrics")
        self._numbers_K = np.zeros(number)
        self._losses_K = torch.zeros(number, device=device)
        self._hits_K = torch.zeros(number, device=device)
        self._sums: list[dict[str, float]] = [{} for _ in range(number)]
        self._later: list[tuple[Tensor, Tensor]] = []
        self._later_bytes = 0

    def add(self, batch: Batch, outputs: Tensor, losses_K: Tensor | None, is_last_K: Any) -> None:
        """Measure a batch of the lanes that are in their last epoch.

        Args:
            batch: What they trained on.
            outputs: What they made of it, ``(K, B, …)``.
            losses_K: The loss of each; ``None`` where that is cross entropy.
            is_last_K: Which lanes that are.
        """
        counts_K = np.asarray(batch.counts) * is_last_K
        number = len(counts_K)
        self._numbers_K[:number] += counts_K
        if losses_K is None and self._is_default and isinstance(batch.weights, float) and is_last_K.all():
            self._later.append((outputs, batch.targets))
            self._later_bytes += outputs.nbytes
            if self._later_bytes > TOGETHER_BYTES:
                self._measure_later()
            return
        if losses_K is None:
            losses_K = (_losses(outputs, batch.targets) * batch.weights).sum(1)
        weights_K = torch.tensor(counts_K, dtype=torch.float32, device=losses_K.device)
        self._losses_K[:number] += losses_K * weights_K
        if self._is_default:
            hits_KB = (outputs.argmax(-1) == batch.targets) * batch.weights
            self._hits_K[:number] += hits_KB.sum(1) * weights_K
            return
        for k in np.flatnonzero(is_last_K).tolist():
            count = batch.counts[k]
            measured = self._task.metrics(outputs[k, :count], batch.targets[k, :count])
            for name, value in measured.items():
                self._sums[k][name] = self._sums[k].get(name, 0.0) + count * float(value)

    def of_lanes(self) -> list[dict[str, float]]:
        """The means of each lane."""
        self._measure_later()
        losses_K = (self._losses_K.double().cpu().numpy() / self._numbers_K).tolist()
        if self._is_default:
            hits_K = (self._hits_K.double().cpu().numpy() / self._numbers_K).tolist()
            return [{"accuracy": hits, "loss": loss} for hits, loss in zip(hits_K, losses_K, strict=True)]
        return [
            {**{name: value / number for name, value in sums.items()}, "loss": loss}
            for sums, number, loss in zip(self._sums, self._numbers_K, losses_K, strict=True)
        ]

    def _measure_later(self) -> None:
        """Measure whole batches together: each would take as long as all of them."""
        if not self._later:
            return
        outputs, targets = (torch.cat(parts, 1) for parts in zip(*self._later, strict=True))
        self._later, self._later_bytes = [], 0
        self._losses_K += _losses(outputs, targets).sum(1)
        self._hits_K += (outputs.argmax(-1) == targets).sum(1)


def _losses(outputs: Tensor, targets: Tensor) -> Tensor:
    """The cross entropy of each example, ``(K, B)``."""
    if outputs.size(-1) < FEW:
        return functional.cross_entropy(outputs.mT, targets, reduction="none")
    return functional.cross_entropy(outputs.flatten(0, 1), targets.flatten(), reduction="none").view_as(targets)
