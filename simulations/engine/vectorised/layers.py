"""Batched kernels: a layer of several copies of a model at once, forward and backward, without autograd.

Activations have the shape ``(K, B, …)``: copies, examples, then what the layer works on. A layer keeps of its forward
pass what its backward pass needs, and no longer: the next step finds that memory free, and still in the caches.
Gradients of parameters are written to where ``Parameters`` has room for them.
"""

from __future__ import annotations

import copy
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional

from simulations.engine.vectorised.parameters import Parameters
from simulations.engine.vectorised.pictures import Conv2d, unflattened


class Layer(Protocol):
    """One layer of all copies."""

    def forward(self, x: Tensor, parameters: Parameters) -> Tensor:
        """What comes out, shape ``(K, B, …)``."""
        ...

    def backward(self, dy: Tensor, parameters: Parameters, *, wanted: bool) -> Tensor | None:
        """The gradient of what came in, if it is wanted; that of the parameters is written."""
        ...


class Linear:
    """``nn.Linear`` of each copy: one batched matrix product."""

    def __init__(self, module: nn.Linear, prefix: str) -> None:
        self._weight, self._bias = prefix + "weight", prefix + "bias" if module.bias is not None else None
        self.names = [prefix + name for name, _ in module.named_parameters()]

    def forward(self, x: Tensor, parameters: Parameters) -> Tensor:
        """``(K, B, …, in)`` to ``(K, B, …, out)``."""
        self._shape = None if x.dim() == 3 else x.shape
        self._x = x.flatten(1, -2) if self._shape else x
        its = parameters.matrix(self._weight, self._bias, x.size(0))
        if its.row is not None:
            y = torch.baddbmm(its.row, self._x, its.transposed)
        else:
            y = torch.bmm(self._x, its.transposed)
        return y.view(*self._shape[:-1], -1) if self._shape else y

    def backward(self, dy: Tensor, parameters: Parameters, *, wanted: bool) -> Tensor | None:
        """As ``Layer`` says."""
        dy = dy.flatten(1, -2) if self._shape else dy
        its = parameters.matrix(self._weight, self._bias, dy.size(0))
        dx = torch.bmm(dy, its.value) if wanted else None
        if self._weight in parameters.descending:
            step = -parameters.rate * parameters.scale
            its.value.baddbmm_(dy.mT, self._x, alpha=step)
            if its.bias is not None:
                its.bias.add_(dy.sum(1), alpha=step)
        else:
            torch.bmm(dy.mT, self._x, out=its.gradient)
            if its.bias_gradient is not None:
                torch.sum(dy, 1, out=its.bias_gradient)
        del self._x
        return dx.view(self._shape) if dx is not None and self._shape else dx


class Embedding:
    """``nn.Embedding`` of each copy: one look-up in all their tables."""

    def __init__(self, module: nn.Embedding, prefix: str) -> None:
        self._weight = prefix + "weight"

    def forward(self, x: Tensor, parameters: Parameters) -> Tensor:
        """``(K, B, …)`` of numbers to ``(K, B, …, width)``."""
        weight = parameters.value(self._weight, len(x))
        words = weight.shape[1]
        if x.numel() and not 0 <= int(x.min()) <= int(x.max()) < words:
            raise IndexError(f"a number outside of the {words} of the embedding")
        start_K = torch.arange(len(x), device=x.device) * words
        self._at = (x + start_K.view(-1, *[1] * (x.dim() - 1))).flatten()
        return weight.flatten(0, 1)[self._at].view(*x.shape, -1)

    def backward(self, dy: Tensor, parameters: Parameters, *, wanted: bool) -> Tensor | None:
        """As ``Layer`` says; numbers have no gradient."""
        table = parameters.gradient(self._weight, len(dy)).zero_().flatten(0, 1)
        table.index_add_(0, self._at, dy.flatten(0, -2))
        del self._at
        return None


class ReLU:
    """``nn.ReLU``."""

    def forward(self, x: Tensor, parameters: Parameters) -> Tensor:
        """As ``Layer`` says."""
        self._y = x.clamp_min(0)
        return self._y

    def backward(self, dy: Tensor, parameters: Parameters, *, wanted: bool) -> Tensor | None:
        """As ``Layer`` says."""
        dx: Tensor = torch.ops.aten.threshold_backward(dy, self._y, 0)
        del self._y
        return dx


class Stateless:
    """A module without parameters or random numbers, which treats each example alike; torch differentiates it."""

    def __init__(self, module: nn.Module) -> None:
        self._module = copy.deepcopy(module)
        if hasattr(self._module, "inplace"):
            self._module.inplace = False  # type: ignore[assignment]

    def forward(self, x: Tensor, parameters: Parameters) -> Tensor:
        """As ``Layer`` says."""
        with torch.enable_grad():
            self._x = x.flatten(0, 1).detach().requires_grad_()
            self._y = self._apply(self._x)
        return unflattened(self._y.detach(), 0, x.shape[:2])

    def backward(self, dy: Tensor, parameters: Parameters, *, wanted: bool) -> Tensor | None:
        """As ``Layer`` says."""
        x, y = self._x, self._y
        del self._x, self._y
        if not wanted:
            return None
        (dx,) = torch.autograd.grad(y, x, dy.flatten(0, 1))
        return unflattened(dx, 0, dy.shape[:2])

    def _apply(self, x: Tensor) -> Tensor:
        y: Tensor = self._module(x)
        return y


class Norm(Stateless):
    """``nn.LayerNorm`` and ``nn.GroupNorm``: torch normalises, and each copy has a scale and a shift of its own."""

    def __init__(self, module: nn.LayerNorm | nn.GroupNorm, prefix: str) -> None:
        super().__init__(module)
        self._weight = prefix + "weight" if module.weight is not None else None
        self._bias = prefix + "bias" if module.bias is not None else None

    def forward(self, x: Tensor, parameters: Parameters) -> Tensor:
        """As ``Layer`` says."""
        y = self._normal = super().forward(x, parameters)
        if self._weight:
            y = y * self._spread(parameters.value(self._weight, len(x)), y)
        if self._bias:
            y = y + self._spread(parameters.value(self._bias, len(x)), y)
        return y

    def backward(self, dy: Tensor, parameters: Parameters, *, wanted: bool) -> Tensor | None:
        """As ``Layer`` says."""
        number = len(dy)
        if self._bias:
            gradient = parameters.gradient(self._bias, number)
            gradient.copy_(self._gathered(dy, gradient))
        if self._weight:
            gradient = parameters.gradient(self._weight, number)
            gradient.copy_(self._gathered(dy * self._normal, gradient))
            dy = dy * self._spread(parameters.value(self._weight, number), dy)
        del self._normal
        return super().backward(dy, parameters, wanted=wanted)

    def _apply(self, x: Tensor) -> Tensor:
        module: Any = self._module
        if isinstance(module, nn.LayerNorm):
            return functional.layer_norm(x, module.normalized_shape, eps=module.eps)
        return functional.group_norm(x, module.num_groups, eps=module.eps)

    def _spread(self, parameter: Tensor, like: Tensor) -> Tensor:
        """A parameter of each copy in the shape of activations: a layer's stands behind, a group's is by channel."""
        if isinstance(self._module, nn.LayerNorm):
            between = [1] * (like.dim() - parameter.dim())
            return parameter.view(len(parameter), *between, *parameter.shape[1:])
        return parameter.view(len(parameter), 1, -1, *[1] * (like.dim() - 3))

    def _gathered(self, x: Tensor, like: Tensor) -> Tensor:
        """The sum over whatever ``_spread`` spreads over."""
        if isinstance(self._module, nn.LayerNorm):
            return x.flatten(1, x.dim() - like.dim()).sum(1)
        return x.transpose(1, 2).flatten(2).sum(2)


class Dropout:
    """``nn.Dropout``, with random numbers of each copy's own: those that it would draw if it trained alone."""

    def __init__(self, module: nn.Dropout) -> None:
        self._p = module.p
        self.generators: list[torch.Generator] = []
        self.counts: list[int] = []

    def forward(self, x: Tensor, parameters: Parameters) -> Tensor:
        """As ``Layer`` says; ``generators`` and ``counts``, the examples that are none of the padding, must be set."""
        self._scale = torch.zeros(x.shape, device=x.device)
        if self._p < 1:
            for k, (generator, count) in enumerate(zip(self.generators, self.counts, strict=True)):
                alone = torch.empty((count, *x.shape[2:])).bernoulli_(1 - self._p, generator=generator)
                self._scale[k, :count] = alone.div_(1 - self._p)
        return x * self._scale

    def backward(self, dy: Tensor, parameters: Parameters, *, wanted: bool) -> Tensor | None:
        """As ``Layer`` says."""
        dx = dy * self._scale
        del self._scale
        return dx


TRAINED = (Linear, Conv2d, Embedding, Norm)
"""Layers that may have parameters."""
