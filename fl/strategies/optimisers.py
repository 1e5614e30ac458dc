"""Strategies whose server takes the weighted mean of the updates as a negative gradient for an optimiser.

FedAvgM is Hsu, Qi, Brown: Measuring the Effects of Non-Identical Data Distribution for Federated Visual
Classification, 2019. The adaptive three are Algorithm 2 of Reddi, Charles, Zaheer, Garrett, Rush, Konečný,
Kumar, McMahan: Adaptive Federated Optimization, ICLR 2021. In formulas: x model, Δ weighted mean of the
updates (FedAvg's), η ``server_learning_rate``, m first moment, v second moment or momentum, t round from 1;
squares, roots and quotients are element by element.

Defaults are those of ``flwr.serverapp.strategy`` (but for FedAvgM's momentum, which is 0 there), and so are the
results, up to rounding. Flower differs from the paper in two ways, and both can be had: its v starts from 0 (the
paper asks for at least τ², see ``second_moment_start``), and its FedAdam corrects the bias of both moments, with
the exponent ``t + 1`` where Kingma and Ba (2015) have t (the paper corrects nothing, see ``bias_correction``).
"""

from __future__ import annotations

import dataclasses
import math
from abc import abstractmethod
from collections.abc import Mapping
from typing import ClassVar

import numpy as np

from fl.arrays import F32
from fl.config import check_range
from fl.strategies.averaging import FedAvg


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class FedAvgM(FedAvg):
    """FedAvg with momentum at the server: ``v ← β v + Δ``, ``x ← x + η v``."""

    name: ClassVar[str] = "fedavgm"
    state_names: ClassVar[tuple[str, ...]] = ("momentum",)

    server_learning_rate: float = 1.0
    """η, the length of the server's step."""

    server_momentum: float = 0.9
    """β, how much of the last round's direction is kept."""

    def __post_init__(self) -> None:
        check_range("strategy.server_learning_rate", self.server_learning_rate, above=0)
        check_range("strategy.server_momentum", self.server_momentum, at_least=0, below=1)

    def step(self, update_T: F32, model_T: F32, state: Mapping[str, F32], scratch_RT: F32, round: int) -> None:
        """Move the moments, then the model by them."""
        momentum_T = state["momentum"]
        np.multiply(momentum_T, np.float32(self.server_momentum), out=momentum_T)
        np.add(momentum_T, update_T, out=momentum_T)
        np.multiply(momentum_T, np.float32(self.server_learning_rate), out=update_T)
        np.add(model_T, update_T, out=update_T)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class AdaptiveStrategy(FedAvg):
    """What Adagrad, Adam and Yogi share: ``x ← x + η d / (√v + τ)`` for a direction d."""

    STEP_SCRATCH_ROWS: ClassVar[int] = 1

    server_learning_rate: float = 0.1
    """η, the length of the server's step."""

    tau: float = 0.001
    """τ, added to the root of the second moment: the smaller, the more each parameter has a step of its own."""

    second_moment_start: float = 0.0
    """What v starts from: 0 as in Flower, or at least the square of ``tau`` as in the paper."""

    def __post_init__(self) -> None:
        check_range("strategy.server_learning_rate", self.server_learning_rate, above=0)
        check_range("strategy.tau", self.tau, above=0)
        check_range("strategy.second_moment_start", self.second_moment_start, at_least=0)

    def initial_state(self, name: str) -> float:
        """``second_moment_start`` for the second moment, 0 for the first."""
        return self.second_moment_start if name == "second_moment" else 0.0

    def step(self, update_T: F32, model_T: F32, state: Mapping[str, F32], scratch_RT: F32, round: int) -> None:
        """Move the moments, then the model by them."""
        scratch_T = scratch_RT[0]
        direction_T = self._move_moments(update_T, state, scratch_T)
        np.multiply(direction_T, np.float32(self._learning_rate(round)), out=update_T)
        np.add(np.sqrt(state["second_moment"], out=scratch_T), np.float32(self.tau), out=scratch_T)
        np.add(model_T, np.divide(update_T, scratch_T, out=update_T), out=update_T)

    @abstractmethod
    def _move_moments(self, update_T: F32, state: Mapping[str, F32], scratch_T: F32) -> F32:
        """Move the moments, in place, and return d; ``update_T`` may be overwritten."""

    def _learning_rate(self, round: int) -> float:
        return self.server_learning_rate


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class FedAdagrad(AdaptiveStrategy):
    """Steps that shrink with all that a parameter has moved: ``v ← v + Δ²``, ``x ← x + η Δ / (√v + τ)``."""

    name: ClassVar[str] = "fedadagrad"
    state_names: ClassVar[tuple[str, ...]] = ("second_moment",)

    def _move_moments(self, update_T: F32, state: Mapping[str, F32], scratch_T: F32) -> F32:
        second_T = state["second_moment"]
        np.add(second_T, np.square(update_T, out=scratch_T), out=second_T)
        return update_T


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class _TwoMoments(AdaptiveStrategy):
    """What Adam and Yogi share: ``m ← β₁ m + (1 − β₁) Δ`` is the direction."""

    state_names: ClassVar[tuple[str, ...]] = ("first_moment", "second_moment")

    beta_1: float = 0.9
    """β₁, how much of the first moment is kept from round to round."""

    beta_2: float = 0.99
    """β₂, how much of the second moment is kept from round to round."""

    def __post_init__(self) -> None:
        AdaptiveStrategy.__post_init__(self)
        check_range("strategy.beta_1", self.beta_1, at_least=0, below=1)
        check_range("strategy.beta_2", self.beta_2, at_least=0, below=1)

    def _move_moments(self, update_T: F32, state: Mapping[str, F32], scratch_T: F32) -> F32:
        first_T = state["first_moment"]
        np.multiply(first_T, np.float32(self.beta_1), out=first_T)
        np.add(first_T, np.multiply(update_T, np.float32(1 - self.beta_1), out=scratch_T), out=first_T)
        self._move_second_moment(state["second_moment"], np.square(update_T, out=update_T), scratch_T)
        return first_T

    @abstractmethod
    def _move_second_moment(self, second_T: F32, square_T: F32, scratch_T: F32) -> None:
        """Move v, in place, given Δ², which may be overwritten."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class FedAdam(_TwoMoments):
    """Adam at the server: ``v ← β₂ v + (1 − β₂) Δ²``, ``x ← x + η m / (√v + τ)``.

    With ``bias_correction`` (Flower's way) the step is multiplied by ``√(1 − β₂ᵗ⁺¹) / (1 − β₁ᵗ⁺¹)``.
    """

    name: ClassVar[str] = "fedadam"

    bias_correction: bool = True
    """Make up for moments that start from 0, as Flower does; false is the paper's Algorithm 2."""

    def _move_second_moment(self, second_T: F32, square_T: F32, scratch_T: F32) -> None:
        np.multiply(second_T, np.float32(self.beta_2), out=second_T)
        np.add(second_T, np.multiply(square_T, np.float32(1 - self.beta_2), out=square_T), out=second_T)

    def _learning_rate(self, round: int) -> float:
        if not self.bias_correction:
            return self.server_learning_rate
        correction = math.sqrt(1 - self.beta_2 ** (round + 1)) / (1 - self.beta_1 ** (round + 1))
        return self.server_learning_rate * correction


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class FedYogi(_TwoMoments):
    """Adam whose second moment moves by steps of bounded size, so that rare large updates are not forgotten.

    ``v ← v − (1 − β₂) Δ² sign(v − Δ²)``, ``x ← x + η m / (√v + τ)``.
    """

    name: ClassVar[str] = "fedyogi"

    server_learning_rate: float = 0.01
    """η, the length of the server's step."""

    def _move_second_moment(self, second_T: F32, square_T: F32, scratch_T: F32) -> None:
        np.sign(np.subtract(second_T, square_T, out=scratch_T), out=scratch_T)
        np.multiply(square_T, np.float32(1 - self.beta_2), out=square_T)
        np.subtract(second_T, np.multiply(square_T, scratch_T, out=square_T), out=second_T)
