"""The parameters of several copies of a model, and their gradients, each in one vector."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from fl.arrays import F32, Layout


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
