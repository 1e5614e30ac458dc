"""The first convolution of a model and the maxima behind it, as one pass over the pictures each way.

Of pictures with one channel a convolution has little to compute and much to write: its output is many times larger than
what comes in, and the maxima then throw three quarters of it away. Once compiled, none of it is written.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from simulations.engine.vectorised.parameters import Parameters
from simulations.engine.vectorised.pictures import Conv2d, MaxPool2x2, maxima, of_any_number, pixels_last

MOST_TERMS = 9
"""Products that a number of the output is the sum of, at most: 3 × 3 pixels of one channel. All stand in the code; with
three channels one pass already takes as long as a convolution and maxima apart."""

INLINE: dict[str, Any] = {"realize_reads_threshold": 1_000, "realize_opcount_threshold": 10_000}
"""The four sums are to stay in registers, however many terms they have and however often they are read."""

QUARTERS = [(0, 0), (0, 1), (1, 0), (1, 1)]


class FirstConvolution:
    """``nn.Conv2d``, ``nn.ReLU`` if there is one, and ``nn.MaxPool2d(2)`` of each copy; nothing trained stands before.

    Not compiled, they are what they are elsewhere. Compiled, sums are added in another order.

    Args:
        module: One that ``fits``.
        prefix: Of its parameters' names.
        is_rectified: Whether there is a ReLU.
    """

    def __init__(self, module: nn.Conv2d, prefix: str, *, is_rectified: bool) -> None:
        self._apart = Conv2d(module, prefix), MaxPool2x2(is_rectified=is_rectified)
        self._weight, self._bias = prefix + "weight", prefix + "bias" if module.bias is not None else None
        self.names, self._shape = self._apart[0].names, tuple(module.weight.shape[1:])
        self._down, self._across = (int(side) for side in module.padding)
        self._is_rectified = is_rectified
        self._compiled: tuple[Callable[..., Any], Callable[..., Any]] | None = None

    def compile(self) -> None:
        """Have torch compile both passes; it does so when they first run."""
        self._compiled = torch.compile(_forward, dynamic=False, options=INLINE), torch.compile(_backward, dynamic=False)

    def forward(self, x: Tensor, parameters: Parameters) -> Tensor:
        """``(K, B, in, H, W)`` to ``(K, B, out, H', W')``."""
        if not self._compiled:
            for layer in self._apart:
                x = layer.forward(x, parameters)
            return x
        number = x.size(0)
        around = (0, 0, 0, 0, self._across, self._across, self._down, self._down)
        self._x = of_any_number(pad(pixels_last(x), around))
        weight = parameters.value(self._weight, number).permute(2, 3, 4, 0, 1).contiguous()
        bias = parameters.value(self._bias, number) if self._bias else weight.new_zeros(weight.shape[3:])
        torch._dynamo.maybe_mark_dynamic(weight, 3)
        torch._dynamo.maybe_mark_dynamic(bias, 0)
        y: Tensor
        y, self._code = self._compiled[0](self._x, weight, bias, is_rectified=self._is_rectified)
        return y.permute(3, 0, 4, 1, 2)

    def backward(self, dy: Tensor, parameters: Parameters, *, wanted: bool) -> Tensor | None:
        """As ``Layer`` says; what came in has no gradient."""
        if not self._compiled:
            convolution, pool = self._apart
            through = pool.backward(dy, parameters, wanted=True)
            assert through is not None
            return convolution.backward(through, parameters, wanted=wanted)
        assert not wanted
        number = dy.size(0)
        dy = of_any_number(pixels_last(dy).contiguous())
        dw, db = self._compiled[1](self._x, dy, of_any_number(self._code), self._shape)
        del self._x, self._code
        parameters.take(self._weight, dw, number)
        if self._bias:
            parameters.take(self._bias, db, number)
        return None


def fits(module: nn.Conv2d) -> bool:
    """Whether a convolution is one of few terms that moves pixel by pixel."""
    plain = (module.stride, module.dilation, module.groups) == ((1, 1), (1, 1), 1)
    return plain and module.weight[0].numel() <= MOST_TERMS


def _forward(x: Tensor, weight: Tensor, bias: Tensor, *, is_rectified: bool) -> tuple[Tensor, Tensor]:
    """Maxima of a convolution, and which of its four numbers each is: see ``pictures.maxima``.

    Args:
        x: Padded pictures, ``(B, H, W, K, in)``.
        weight: ``(in, height, width, K, out)``.
        bias: ``(K, out)``.
        is_rectified: Whether numbers below 0 become 0.
    """
    terms = list(itertools.product(*map(range, weight.shape[:3])))
    sums = []
    for quarter in QUARTERS:
        total = bias
        for term in terms:
            total = total + _seen(x, quarter, term, weight.shape[1:3]) * weight[term]
        sums.append(total)
    return maxima(*sums, is_rectified=is_rectified)


def _backward(x: Tensor, dy: Tensor, code: Tensor, shape: tuple[int, int, int]) -> tuple[Tensor, Tensor]:
    """The gradients of the weight, ``(K, out, in * height * width)``, and of the bias, ``(K, out)``."""
    parts = [torch.where(code == float(number), dy, 0.0) for number in range(len(QUARTERS))]
    found = []
    for term in itertools.product(*map(range, shape)):
        products = [_seen(x, quarter, term, shape[1:]) * part for quarter, part in zip(QUARTERS, parts, strict=True)]
        found.append(functools.reduce(torch.add, products).sum((0, 1, 2)))
    return torch.stack(found, -1), torch.where(code < len(QUARTERS), dy, 0.0).sum((0, 1, 2))


def _seen(x: Tensor, quarter: tuple[int, int], term: tuple[int, ...], size: Sequence[int]) -> Tensor:
    """What one term of a sum sees of the pictures at every other pixel, ``(B, H', W', K, 1)``."""
    channel, *moved = term
    rows, columns = (
        slice(start + by, start + by + (length - side + 1) // 2 * 2 - 1, 2)
        for start, by, length, side in zip(quarter, moved, x.shape[1:3], size, strict=True)
    )
    return x[:, rows, columns, :, channel, None]
