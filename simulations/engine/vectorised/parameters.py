"""The parameters of several copies of a model, and their gradients, each in one vector."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from fl.arrays import F32, Layout


class Matrix(NamedTuple):
    """Views of one linear layer of some copies.

    Attributes:
        value: The weight, ``(K, out, in)``.
        transposed: ``(K, in, out)``.
        gradient: Where the weight's gradient goes.
        bias: ``(K, out)``, if there is one.
        row: The same as ``(K, 1, out)``.
        bias_gradient: Where its gradient goes, ``(K, out)``.
    """

    value: Tensor
    transposed: Tensor
    gradient: Tensor
    bias: Tensor | None
    row: Tensor | None
    bias_gradient: Tensor | None


class Parameters:
    """Parameters of ``count`` copies, one parameter after the other: whole for the optimiser, views for the kernels.

    Args:
        layout: Names and shapes of what is trained.
        count: Copies.
        device: Where.

    Attributes:
        values_Q: All of them, float32, shape ``(count * P,)``: the first parameter of every copy, then the second, ….
        gradients_Q: Likewise.
        descending: Parameters that their layers move themselves, on their way back, along gradients that are never
            written: one pass over them instead of three. An optimiser moves the others.
        rate: The learning rate with which they do.
        scale: What those gradients are still to be multiplied with.
    """

    def __init__(self, layout: Layout, count: int, device: torch.device) -> None:
        self.layout, self.count = layout, count
        self.values_Q = torch.empty(layout.size * count, device=device)
        self.gradients_Q = torch.zeros(layout.size * count, device=device)
        self._moved_KP = torch.empty(count, layout.size, device=device)
        self.descending: frozenset[str] = frozenset()
        self.rate = self.scale = 1.0
        self._values = self._views(self.values_Q)
        self._gradients = self._views(self.gradients_Q)
        self._matrices: dict[tuple[str, int], Matrix] = {}

    def fill(self, vector_P: Tensor) -> None:
        """Give every copy the same parameters, shape ``(P,)``."""
        at = 0
        for view in self._values.values():
            size = view[0].numel()
            view.copy_(vector_P[at : at + size].view(view.shape[1:]))
            at += size

    def value(self, name: str, number: int) -> Tensor:
        """A parameter of the first ``number`` copies, shape ``(number, *shape)``."""
        value = self._values[name]
        return value if number == self.count else value[:number]

    def gradient(self, name: str, number: int) -> Tensor:
        """Where the gradient of such a parameter goes."""
        gradient = self._gradients[name]
        return gradient if number == self.count else gradient[:number]

    def matrix(self, weight: str, bias: str | None, number: int) -> Matrix:
        """A weight and its bias as the products want them: making views anew took a tenth of a small step."""
        found = self._matrices.get((weight, number))
        if found is None:
            value, row = self.value(weight, number), self.value(bias, number) if bias else None
            found = self._matrices[weight, number] = Matrix(
                value=value,
                transposed=value.mT,
                gradient=self.gradient(weight, number),
                bias=row,
                row=None if row is None else row.unsqueeze(1),
                bias_gradient=self.gradient(bias, number) if bias else None,
            )
        return found

    def take(self, name: str, gradient: Tensor, number: int) -> None:
        """A gradient of the first ``number`` copies, whatever its shape: descended, or kept for the optimiser."""
        if name in self.descending:
            value = self.value(name, number)
            value.add_(gradient.view_as(value), alpha=-self.rate * self.scale)
        else:
            kept = self.gradient(name, number)
            kept.copy_(gradient.view_as(kept))

    def prefix(self, vector_Q: Tensor, number: int) -> list[Tensor]:
        """The parts of a vector that belong to the first copies and do not descend; one part if those are all."""
        if number == self.count and not self.descending:
            return [vector_Q]
        return [view[:number] for name, view in self._views(vector_Q).items() if name not in self.descending]

    def minus(self, vector_P: Tensor) -> F32:
        """How far each copy is from a vector, shape ``(count, P)``; on a CPU valid until the next time."""
        parts = [view.flatten(1) for view in self._values.values()]
        moved: F32 = torch.cat(parts, 1, out=self._moved_KP).sub_(vector_P).cpu().numpy()
        return moved

    def _views(self, vector_Q: Tensor) -> dict[str, Tensor]:
        views, at = {}, 0
        for name, shape in self.layout.entries:
            size = math.prod(shape) * self.count
            views[name] = vector_Q[at : at + size].view(self.count, *shape)
            at += size
        return views
