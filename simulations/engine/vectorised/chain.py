"""Chains of linear layers: which models are one, and their training by the native function of ``native``."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import nn

from fl.arrays import F32
from fl.errors import TaskError
from fl.tasks.training import TrainingConfig
from simulations.engine.vectorised.lanes import I64, Lanes, drawn_by_torch
from simulations.engine.vectorised.pictures import flattens

Spread = Callable[[Callable[[int, int], bool]], list[bool]]
"""Calls something with ``(0, n)``, ``(1, n)``, … ``(n - 1, n)``, at once if it can."""


class Chain:
    """Linear layers one behind the other, some with a ReLU behind them, and cross entropy at the end.

    Args:
        layers: The linear layers, and whether a ReLU follows.
    """

    def __init__(self, layers: list[tuple[nn.Linear, bool]]) -> None:
        linears = [layer for layer, _ in layers]
        self._sizes = np.array([linears[0].in_features, *(it.out_features for it in linears)])
        self._biased = np.array([it.bias is not None for it in linears])
        self._rectified = np.array([is_rectified for _, is_rectified in layers])
        self._moved_KP: F32 = np.empty((0, 0), np.float32)
        self._native: ModuleType | None = None
        self._draws_as_torch = False

    def compile(self) -> None:
        """Have the native function, compiled now if that was never done on this computer.

        Raises:
            TaskError: If Numba cannot be used here.
        """
        try:
            from simulations.engine.vectorised import native
        except ImportError as err:
            raise TaskError(f"Numba cannot be used: {err}") from err
        self._native = native
        self._draws_as_torch = all(
            np.array_equal(self._drawn([5, 1 << 40], 2, size), drawn_by_torch([5, 1 << 40], 2, size))
            for size in (1, 15, 1000)
        )

    def draw(self, seeds: Sequence[int], epochs: int, size: int) -> I64:
        """See ``lanes.Draw``."""
        return self._drawn(seeds, epochs, size) if self._draws_as_torch else drawn_by_torch(seeds, epochs, size)

    def _drawn(self, seeds: Sequence[int], epochs: int, size: int) -> I64:
        native: Any = self._native
        orders_KEN = np.empty((len(seeds), epochs, size), np.int64)
        native.draw(np.array(seeds), orders_KEN)
        return orders_KEN

    def train(
        self, lanes: Lanes, start_P: F32, training: TrainingConfig, spread: Spread
    ) -> tuple[F32, list[dict[str, float]]] | None:
        """Take all steps of SGD.

        Args:
            lanes: The sites.
            start_P: Where they begin, shape ``(P,)``.
            training: Its constants.
            spread: Over threads; the result does not hang on their number.

        Returns:
            How far each lane moved, ``(K, P)``, valid until the next time, and what it measured; ``None`` where it is
            not compiled, or these are no examples for it.
        """
        inputs, targets = lanes.inputs, lanes.targets
        fits = inputs.dtype == torch.float32 and inputs.dim() > 1 and inputs[0].numel() == self._sizes[0]
        if not self._native or not fits or targets.dtype != torch.int64 or targets.dim() != 1:
            return None
        number = len(lanes.order)
        if self._moved_KP.shape != (number, len(start_P)):
            self._moved_KP = np.empty((number, len(start_P)), np.float32)
        losses_K, hits_K = np.empty(number), np.empty(number, np.int64)
        native: Any = self._native
        constants = training.learning_rate, training.momentum, training.weight_decay, training.proximal_mu
        common = (
            self._sizes, self._biased, self._rectified, start_P,
            inputs.numpy().reshape(len(inputs), -1), targets.numpy(), lanes.at_SKB, lanes.counts_SK,
            lanes.last_K, lanes.last_K - lanes.per_epoch_K, *(np.float32(it) for it in constants),
        )  # fmt: skip

        def some(first: int, stride: int) -> bool:
            is_good: bool = native.train(*common, first, stride, self._moved_KP, losses_K, hits_K)
            return is_good

        if not all(spread(some)):
            return None  # torch knows better what to say of it
        numbers_K = lanes.measured_K
        return self._moved_KP, [
            {"accuracy": hits, "loss": loss}
            for hits, loss in zip((hits_K / numbers_K).tolist(), (losses_K / numbers_K).tolist(), strict=True)
        ]


def chain_of(modules: list[nn.Module]) -> Chain | None:
    """The chain that a sequence of layers is, if it is one and Numba is there."""
    if not importlib.util.find_spec("numba"):
        return None
    layers: list[tuple[nn.Linear, bool]] = []
    for place, module in enumerate(modules):
        kind = type(module)
        if kind is nn.Linear:
            layers.append((module, False))  # type: ignore[arg-type]
        elif kind is nn.ReLU and layers and not layers[-1][1]:
            layers[-1] = layers[-1][0], True
        elif kind is not nn.Identity and not (place == 0 and flattens(module)):
            return None
    return Chain(layers) if layers else None
