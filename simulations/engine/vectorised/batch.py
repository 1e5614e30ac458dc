"""What several copies of a model are trained on in one step."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


class Batch:
    """One batch of each of the first ``K`` copies.

    Attributes:
        inputs: ``(K, B, …)``.
        targets: ``(K, B)``.
        weights: Each example's part in its copy's mean, ``(K, B)``, 0 for padding; one number where there is none.
        counts: How many of each copy's examples are none of the padding.
        generators: Each copy's random numbers, if the model draws some.
    """

    __slots__ = ("counts", "generators", "inputs", "targets", "weights")

    def __init__(
        self,
        inputs: Tensor,
        targets: Tensor,
        weights: Tensor | float,
        counts: Sequence[int],
        generators: Sequence[torch.Generator] = (),
    ) -> None:
        self.inputs, self.targets, self.weights = inputs, targets, weights
        self.counts, self.generators = counts, generators
