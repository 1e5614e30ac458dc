"""Batched kernels for pictures ``(K, B, C, H, W)``: see ``layers``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from simulations.engine.vectorised.parameters import Parameters


class Conv2d:
    """``nn.Conv2d`` of each copy: one grouped convolution, a group a copy.

    On a CPU pictures lie as ``(B, H, W, K, C)`` in memory, which is what oneDNN groups fastest: in any other order
    its grouped convolutions take several times longer than one convolution after the other.
    """

    def __init__(self, module: nn.Conv2d, prefix: str) -> None:
        self._weight, self._bias = prefix + "weight", prefix + "bias" if module.bias is not None else None
        self.names = [prefix + name for name, _ in module.named_parameters()]
        self._groups = module.groups
        self._how: tuple[list[int], list[int], list[int]] = (
            list(module.stride),
            [int(side) for side in module.padding],
            list(module.dilation),
        )

    def forward(self, x: Tensor, parameters: Parameters) -> Tensor:
        """``(K, B, in, H, W)`` to ``(K, B, out, H', W')``."""
        number = x.size(0)
        self._x = _side_by_side(x)
        weight = parameters.value(self._weight, number).flatten(0, 1)
        bias = parameters.value(self._bias, number).flatten() if self._bias else None
        return _apart(torch.conv2d(self._x, weight, bias, *self._how, number * self._groups), number)

    def backward(self, dy: Tensor, parameters: Parameters, *, wanted: bool) -> Tensor | None:
        """As ``Layer`` says."""
        number = dy.size(0)
        weight = parameters.value(self._weight, number)
        dx, dw, db = torch.ops.aten.convolution_backward(
            _side_by_side(dy),
            self._x,
            weight.flatten(0, 1),
            [number * weight.size(1)],
            *self._how,
            False,
            [0, 0],
            number * self._groups,
            [wanted, True, self._bias is not None],
        )
        del self._x
        parameters.take(self._weight, dw, number)
        if self._bias:
            parameters.take(self._bias, db, number)
        return _apart(dx, number) if wanted else None


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
        """Have torch compile both passes for pictures as ``Conv2d`` has them; it does so when they first run."""
        self._compiled = torch.compile(_pooled, dynamic=False), torch.compile(_unpooled, dynamic=False)

    def forward(self, x: Tensor, parameters: Parameters) -> Tensor:
        """``(K, B, C, H, W)`` to half of H and W."""
        self._height, self._width = x.shape[-2] // 2 * 2, x.shape[-1] // 2 * 2
        pixels = pixels_last(x)
        if self._compiled and self._is_even(x) and pixels.is_contiguous():
            y, self._code = self._compiled[0](of_any_number(pixels.flatten(3)), is_rectified=self._is_rectified)
            return _copies(y, x.size(0))
        self._x, self._code = x, None
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
            dx = self._compiled[1](of_any_number(pixels_last(dy).contiguous().flatten(3)), of_any_number(self._code))
            self._code = None
            return _copies(dx, dy.size(0))
        if self._is_rectified:
            dy = torch.ops.aten.threshold_backward(dy, self._y, 0)
        dx = torch.empty_like(self._x)
        if not self._is_even(dx):
            dx.zero_()
        below = dy * self._is_below
        above = dy - below
        a, b, c, d = self._quarters(dx)
        torch.mul(above, self._right_above, out=b)
        torch.sub(above, b, out=a)
        torch.mul(below, self._right_below, out=d)
        torch.sub(below, d, out=c)
        del self._x, self._y, self._is_below, self._right_above, self._right_below
        return dx

    def _is_even(self, x: Tensor) -> bool:
        return (self._height, self._width) == tuple(x.shape[-2:])

    def _quarters(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        h, w = self._height, self._width
        return x[..., :h:2, :w:2], x[..., :h:2, 1:w:2], x[..., 1:h:2, :w:2], x[..., 1:h:2, 1:w:2]


def _pooled(x: Tensor, *, is_rectified: bool) -> tuple[Tensor, Tensor]:
    """The maxima of pictures ``(N, H, W, C)``."""
    return maxima(x[:, ::2, ::2], x[:, ::2, 1::2], x[:, 1::2, ::2], x[:, 1::2, 1::2], is_rectified=is_rectified)


def maxima(a: Tensor, b: Tensor, c: Tensor, d: Tensor, *, is_rectified: bool) -> tuple[Tensor, Tensor]:
    """The largest of four numbers, and which of them it is, as 0 to 3; 4 where a ReLU cuts it off.

    Places are float32 like everything else: mixed widths would keep the compiler from vectorising.
    """
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


def of_any_number(x: Tensor) -> Tensor:
    """The same, of which compiled code is to take any number of pictures and of copies."""
    torch._dynamo.maybe_mark_dynamic(x, 0)
    torch._dynamo.maybe_mark_dynamic(x, 3)
    return x


def flattens(module: nn.Module) -> bool:
    """Whether a module makes one row of each example."""
    return type(module) is nn.Flatten and (module.start_dim, module.end_dim) == (1, -1)


class Flatten:
    """``nn.Flatten()``: channels first, whatever the memory's order."""

    def forward(self, x: Tensor, parameters: Parameters) -> Tensor:
        """``(K, B, …)`` to ``(K, B, all)``."""
        self._shape, self._strides = x.shape, x.stride()
        self._is_ordered = x.is_contiguous()
        return x.flatten(2)

    def backward(self, dy: Tensor, parameters: Parameters, *, wanted: bool) -> Tensor | None:
        """As ``Layer`` says; what comes out lies in memory as what came in."""
        dx = dy.view(self._shape)
        if self._is_ordered:
            return dx
        return torch.empty_strided(self._shape, self._strides, dtype=dx.dtype, device=dx.device).copy_(dx)


def channels_last(x: Tensor) -> Tensor:
    """The same ``(…, C, H, W)`` with the channels behind the pixels in memory."""
    behind = x.movedim(-3, -1)
    # Not ``contiguous``: of a single channel that copies nothing, and torch takes the strides for channels first.
    return torch.empty(behind.shape, dtype=x.dtype, device=x.device).copy_(behind).movedim(-1, -3)


def _side_by_side(x: Tensor) -> Tensor:
    """``(K, B, C, H, W)`` to ``(B, K * C, H, W)``: a view if the memory's order is the right one, else a copy."""
    if x.device.type == "cpu":
        return pixels_last(x).contiguous().flatten(3).movedim(-1, 1)
    return x.transpose(0, 1).flatten(1, 2)


def _apart(x: Tensor, number: int) -> Tensor:
    """``(B, K * C, H, W)`` to ``(K, B, C, H, W)``."""
    return unflattened(x, 1, (number, -1)).transpose(0, 1)


def pixels_last(x: Tensor) -> Tensor:
    """``(K, B, C, H, W)`` to ``(B, H, W, K, C)``."""
    return x.permute(1, 3, 4, 0, 2)


def _copies(x: Tensor, number: int) -> Tensor:
    """``(B, H, W, K * C)`` to ``(K, B, C, H, W)``."""
    return unflattened(x, 3, (number, -1)).permute(3, 0, 4, 1, 2)


def unflattened(x: Tensor, place: int, sizes: tuple[int, ...]) -> Tensor:
    """``unflatten``, typed."""
    y: Tensor = x.unflatten(place, sizes)  # type: ignore[no-untyped-call]
    return y
