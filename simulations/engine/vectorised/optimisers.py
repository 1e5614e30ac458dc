"""The optimisers of ``Task.optimiser`` for several copies of a model at once, as torch's own compute them."""

from __future__ import annotations

import torch
from torch import Tensor

from fl.tasks.training import TrainingConfig
from simulations.engine.vectorised.parameters import Parameters

BETA_1, BETA_2, EPSILON = 0.9, 0.999, 1e-8


def is_plain(training: TrainingConfig) -> bool:
    """Whether a step is nothing but the gradient times the learning rate."""
    others = training.momentum or training.weight_decay or training.proximal_mu
    return training.optimiser == "sgd" and not others


class Optimiser:
    """SGD with momentum, Adam (Kingma and Ba 2015) or AdamW (Loshchilov and Hutter 2019), with FedProx's pull.

    Args:
        parameters: What is trained.
        training: Which of them, and its constants.
    """

    def __init__(self, parameters: Parameters, training: TrainingConfig) -> None:
        self._parameters, self._training = parameters, training
        self._taken = 0
        self._pieces: tuple[int, list[list[Tensor] | None]] = 0, []
        zeros = torch.zeros_like
        values_Q = parameters.values_Q
        adaptive = training.optimiser != "sgd"
        self._mean_Q = zeros(values_Q) if adaptive or training.momentum else None
        self._square_Q = zeros(values_Q) if adaptive else None
        self._global_Q = values_Q.clone() if training.proximal_mu else None

    def step(self, number: int) -> None:
        """Move the first copies along their gradients; those behind them have finished."""
        self._taken += 1
        values, gradients, means, squares, starts = self._of_first(number)
        assert values
        assert gradients
        for place, (value, gradient) in enumerate(zip(values, gradients, strict=True)):
            if starts:  # mu / 2 * |local - global|**2, Li et al. 2020, eq. 2
                gradient.add_(value - starts[place], alpha=self._training.proximal_mu)
            if squares and means:
                self._adam(value, gradient, means[place], squares[place])
            else:
                self._sgd(value, gradient, means[place] if means else None)

    def _of_first(self, number: int) -> list[list[Tensor] | None]:
        """The pieces of all vectors that belong to the first copies; mostly those of the step before."""
        if self._pieces[0] != number:
            of, split = self._parameters, self._parameters.prefix
            vectors = of.values_Q, of.gradients_Q, self._mean_Q, self._square_Q, self._global_Q
            self._pieces = number, [None if vector is None else split(vector, number) for vector in vectors]
        return self._pieces[1]

    def _sgd(self, value: Tensor, gradient: Tensor, velocity: Tensor | None) -> None:
        training = self._training
        if training.weight_decay:
            gradient.add_(value, alpha=training.weight_decay)
        if velocity is not None:
            gradient = velocity.mul_(training.momentum).add_(gradient)
        value.add_(gradient, alpha=-training.learning_rate)

    def _adam(self, value: Tensor, gradient: Tensor, mean: Tensor, square: Tensor) -> None:
        training, taken = self._training, self._taken
        if training.optimiser == "adamw":
            value.mul_(1 - training.learning_rate * training.weight_decay)
        elif training.weight_decay:
            gradient.add_(value, alpha=training.weight_decay)
        mean.lerp_(gradient, 1 - BETA_1)
        square.mul_(BETA_2).addcmul_(gradient, gradient, value=1 - BETA_2)
        scale = square.sqrt().div_((1 - BETA_2**taken) ** 0.5).add_(EPSILON)
        value.addcdiv_(mean, scale, value=-training.learning_rate / (1 - BETA_1**taken))
