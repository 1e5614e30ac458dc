"""Batched kernels: a layer of several copies of a model at once, forward and backward, without autograd.

Activations have the shape ``(K, B, …)``: copies, examples, then what the layer works on. A layer keeps of its forward
pass what its backward pass needs. Gradients of parameters are written to where ``Parameters`` has room for them.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional

from simulations.engine.vectorised.parameters import Parameters


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
        torch.bmm(dy.mT, self._x, out=its.gradient)
        if its.row_gradient is not None:
            torch.sum(dy, 1, out=its.row_gradient)
        if not wanted:
            return None
        dx = torch.bmm(dy, its.value)
        return dx.view(self._shape) if self._shape else dx


class Conv2d:
    """``nn.Conv2d`` of each copy: on a CPU one after the other, on a GPU as one grouped convolution."""

    def __init__(self, module: nn.Conv2d, prefix: str) -> None:
        self._weight, self._bias = prefix + "weight", prefix + "bias" if module.bias is not None else None
        self._groups = module.groups
        self._how: tuple[list[int], list[int], list[int]] = (
            list(module.stride),
            [int(side) for side in module.padding],
            list(module.dilation),
        )
        self.is_grouped = False

    def forward(self, x: Tensor, parameters: Parameters) -> Tensor:
        """``(K, B, in, H, W)`` to ``(K, B, out, H', W')``."""
        self._x = x
        number = len(x)
        weight = parameters.value(self._weight, number)
        bias = parameters.value(self._bias, number) if self._bias else None
        if self.is_grouped:
            groups = number * self._groups
            flat = None if bias is None else bias.flatten()
            return _apart(torch.conv2d(_side_by_side(x), weight.flatten(0, 1), flat, *self._how, groups), number)
        return _stack([
            torch.conv2d(x[k], weight[k], None if bias is None else bias[k], *self._how, self._groups)
            for k in range(number)
        ])  # fmt: skip

    def backward(self, dy: Tensor, parameters: Parameters, *, wanted: bool) -> Tensor | None:
        """As ``Layer`` says."""
        number = len(dy)
        weight, d_weight = parameters.value(self._weight, number), parameters.gradient(self._weight, number)
        d_bias = parameters.gradient(self._bias, number) if self._bias else None
        if self.is_grouped:
            dx, dw, db = self._backward(
                _side_by_side(dy), _side_by_side(self._x), weight.flatten(0, 1), number * self._groups, wanted
            )
            d_weight.copy_(dw.view_as(d_weight))
            if d_bias is not None:
                d_bias.copy_(db.view_as(d_bias))
            return _apart(dx, number) if wanted else None
        dxs = []
        for k in range(number):
            dx, dw, db = self._backward(dy[k], self._x[k], weight[k], self._groups, wanted)
            d_weight[k].copy_(dw)
            if d_bias is not None:
                d_bias[k].copy_(db)
            dxs.append(dx)
        return _stack(dxs) if wanted else None

    def _backward(
        self, dy: Tensor, x: Tensor, weight: Tensor, groups: int, wanted: bool
    ) -> tuple[Tensor, Tensor, Tensor]:
        return torch.ops.aten.convolution_backward(  # type: ignore[no-any-return]
            dy, x, weight, [len(weight)], *self._how, False, [0, 0], groups, [wanted, True, self._bias is not None]
        )


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
        return None


class ReLU:
    """``nn.ReLU``."""

    def forward(self, x: Tensor, parameters: Parameters) -> Tensor:
        """As ``Layer`` says."""
        self._y = x.clamp_min(0)
        return self._y

    def backward(self, dy: Tensor, parameters: Parameters, *, wanted: bool) -> Tensor | None:
        """As ``Layer`` says."""
        return torch.ops.aten.threshold_backward(dy, self._y, 0)  # type: ignore[no-any-return]


class MaxPool2x2:
    """``nn.MaxPool2d(2)``: three maxima of four strided pictures, much faster on a CPU than torch's own kernel.

    Of equal values the first in reading order gets the gradient, as torch has it. Once compiled, each pass is one
    loop over the pictures and several times faster again; both ways give the same bits, because nothing is rounded.

    Args:
        is_rectified: Whether a ReLU comes with it.
    """

    def __init__(self, *, is_rectified: bool) -> None:
        self._is_rectified = is_rectified
        self._compiled: tuple[Callable[..., Any], Callable[..., Any]] | None = None
        self._code: Tensor | None = None

    def compile(self) -> None:
        """Have torch compile both passes for pictures whose channels are last; it does so when they first run."""
        self._compiled = torch.compile(_pooled, dynamic=False), torch.compile(_unpooled, dynamic=False)

    def forward(self, x: Tensor, parameters: Parameters) -> Tensor:
        """``(K, B, C, H, W)`` to half of H and W."""
        self._x = x
        self._height, self._width = x.shape[-2] // 2 * 2, x.shape[-1] // 2 * 2
        pixels = x.movedim(2, -1)
        if self._compiled and self._is_even() and pixels.is_contiguous():
            y, self._code = self._compiled[0](_of_any_number(pixels.flatten(0, 1)), is_rectified=self._is_rectified)
            return _unflattened(y, 0, x.shape[:2]).movedim(-1, 2)
        self._code = None
        a, b, c, d = self._quarters(x)
        self._right_above, self._right_below = b > a, d > c
        above, below = torch.maximum(a, b), torch.maximum(c, d)
        self._is_below = below > above
        self._y = torch.maximum(above, below)
        if self._is_rectified:
            self._y = self._y.clamp_min_(0)
        return self._y

    def backward(self, dy: Tensor, parameters: Parameters, *, wanted: bool) -> Tensor | None:
        """As ``Layer`` says."""
        if self._code is not None and self._compiled:
            pixels = dy.movedim(2, -1).flatten(0, 1)
            dx = self._compiled[1](_of_any_number(pixels.contiguous()), self._code)
            return _unflattened(dx, 0, dy.shape[:2]).movedim(-1, 2)
        if self._is_rectified:
            dy = torch.ops.aten.threshold_backward(dy, self._y, 0)
        dx = torch.empty_like(self._x)
        if not self._is_even():
            dx.zero_()
        below = dy * self._is_below
        above = dy - below
        a, b, c, d = self._quarters(dx)
        torch.mul(above, self._right_above, out=b)
        torch.sub(above, b, out=a)
        torch.mul(below, self._right_below, out=d)
        torch.sub(below, d, out=c)
        return dx

    def _is_even(self) -> bool:
        return (self._height, self._width) == tuple(self._x.shape[-2:])

    def _quarters(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        h, w = self._height, self._width
        return x[..., :h:2, :w:2], x[..., :h:2, 1:w:2], x[..., 1:h:2, :w:2], x[..., 1:h:2, 1:w:2]


def _pooled(x: Tensor, *, is_rectified: bool) -> tuple[Tensor, Tensor]:
    """The maxima of pictures ``(N, H, W, C)``, and which of the four each is, as 0 to 3; 4 where a ReLU cuts it off.

    Numbers of pixels are float32 like everything else: mixed widths would keep the compiler from vectorising.
    """
    a, b, c, d = x[:, ::2, ::2], x[:, ::2, 1::2], x[:, 1::2, ::2], x[:, 1::2, 1::2]
    above, below = torch.maximum(a, b), torch.maximum(c, d)
    y = torch.maximum(above, below)
    code = torch.where(below > above, torch.where(d > c, 3.0, 2.0), torch.where(b > a, 1.0, 0.0))
    return (torch.relu(y), torch.where(y > 0, code, 4.0)) if is_rectified else (y, code)


def _unpooled(dy: Tensor, code: Tensor) -> Tensor:
    """The gradient of what ``_pooled`` had."""
    number, height, width, channels = dy.shape
    place = torch.arange(4, device=dy.device, dtype=torch.float32).view(2, 1, 2, 1)
    dx = torch.where(code[:, :, None, :, None] == place, dy[:, :, None, :, None], 0.0)
    return dx.reshape(number, 2 * height, 2 * width, channels)


def _of_any_number(x: Tensor) -> Tensor:
    """The same, of which compiled code is to take any number of pictures."""
    torch._dynamo.maybe_mark_dynamic(x, 0)
    return x


class Flatten:
    """``nn.Flatten()``: channels first, whatever the memory's order."""

    def forward(self, x: Tensor, parameters: Parameters) -> Tensor:
        """``(K, B, …)`` to ``(K, B, all)``."""
        self._shape, self._is_channels_last = x.shape, x.dim() == 5 and x.stride(2) == 1
        return x.flatten(2)

    def backward(self, dy: Tensor, parameters: Parameters, *, wanted: bool) -> Tensor | None:
        """As ``Layer`` says."""
        dx = dy.view(self._shape)
        return channels_last(dx) if self._is_channels_last else dx


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
        return _unflattened(self._y.detach(), 0, x.shape[:2])

    def backward(self, dy: Tensor, parameters: Parameters, *, wanted: bool) -> Tensor | None:
        """As ``Layer`` says."""
        if not wanted:
            return None
        (dx,) = torch.autograd.grad(self._y, self._x, dy.flatten(0, 1))
        return _unflattened(dx, 0, dy.shape[:2])

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
        return dy * self._scale


TRAINED = (Linear, Conv2d, Embedding, Norm)
"""Layers that may have parameters."""


def channels_last(x: Tensor) -> Tensor:
    """The same ``(…, C, H, W)`` with the channels behind the pixels in memory."""
    behind = x.movedim(-3, -1)
    # Not ``contiguous``: of a single channel that copies nothing, and torch takes the strides for channels first.
    return torch.empty(behind.shape, dtype=x.dtype, device=x.device).copy_(behind).movedim(-1, -3)


def _stack(pictures: list[Tensor]) -> Tensor:
    """Pictures ``(B, C, H, W)`` of each copy together, in the order of memory that they have."""
    if len(pictures) == 1:
        return pictures[0].unsqueeze(0)
    if pictures[0].stride(1) != 1:
        return torch.stack(pictures)
    return torch.stack([picture.movedim(1, -1) for picture in pictures]).movedim(-1, 2)


def _side_by_side(x: Tensor) -> Tensor:
    """``(K, B, C, H, W)`` to ``(B, K * C, H, W)``."""
    return x.transpose(0, 1).flatten(1, 2)


def _apart(x: Tensor, number: int) -> Tensor:
    """``(B, K * C, H, W)`` to ``(K, B, C, H, W)``."""
    return _unflattened(x, 1, (number, -1)).transpose(0, 1)


def _unflattened(x: Tensor, place: int, sizes: tuple[int, ...]) -> Tensor:
    y: Tensor = x.unflatten(place, sizes)  # type: ignore[no-untyped-call]
    return y
