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
        row: The bias, ``(K, 1, out)``, if there is one.
        row_gradient: Where its gradient goes, ``(K, out)``.
    """

    value: Tensor
    transposed: Tensor
    gradient: Tensor
    row: Tensor | None
    row_gradient: Tensor | None


class Parameters:
    """Parameters of ``count`` copies, one parameter after the other: whole for the optimiser, views for the kernels.

    Args:
        layout: Names and shapes of what is trained.
        count: Copies.
        device: Where.

    Attributes:
        values_Q: All of them, float32, shape ``(count * P,)``: the first parameter of every copy, then the second, ….
        gradients_Q: Likewise.
    """

    def __init__(self, layout: Layout, count: int, device: torch.device) -> None:
        self.layout, self.count = layout, count
        self.values_Q = torch.empty(layout.size * count, device=device)
        self.gradients_Q = torch.zeros(layout.size * count, device=device)
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
            value = self.value(weight, number)
            found = self._matrices[weight, number] = Matrix(
                value=value,
                transposed=value.mT,
                gradient=self.gradient(weight, number),
                row=self.value(bias, number).unsqueeze(1) if bias else None,
                row_gradient=self.gradient(bias, number) if bias else None,
            )
        return found

    def prefix(self, vector_Q: Tensor, number: int) -> list[Tensor]:
        """The parts of a vector that belong to the first copies; one part if those are all."""
        if number == self.count:
            return [vector_Q]
        return [view[:number] for view in self._views(vector_Q).values()]

    def minus(self, vector_P: Tensor) -> dict[str, F32]:
        """How far each copy is from a vector, by name, shape ``(count, *shape)``."""
        moved, at = {}, 0
        for name, view in self._values.items():
            size = view[0].numel()
            moved[name] = (view - vector_P[at : at + size].view(view.shape[1:])).cpu().numpy()
            at += size
        return moved

    def _views(self, vector_Q: Tensor) -> dict[str, Tensor]:
        views, at = {}, 0
        for name, shape in self.layout.entries:
            size = math.prod(shape) * self.count
            views[name] = vector_Q[at : at + size].view(self.count, *shape)
            at += size
        return views
