"""The ``[training]`` table: how a site trains in one round."""

from __future__ import annotations

import dataclasses
from typing import ClassVar, Literal

from fl.config import check_range


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class TrainingConfig:
    """The ``[training]`` table."""

    TABLE: ClassVar[str] = "training"

    epochs: int = 1
    """Passes over a site's examples in one round."""

    batch_size: int = 32
    """Examples behind one step of the optimiser, whatever the memory: see ``fl.tasks.memory``."""

    learning_rate: float = 0.05
    """Step size of the optimiser."""

    momentum: float = 0.9
    """Momentum of ``sgd``; the other optimisers ignore it."""

    weight_decay: float = 0.0
    """Decay of the weights in one step, as a multiple of the learning rate."""

    optimiser: Literal["sgd", "adam", "adamw"] = "sgd"
    """What turns gradients into steps; it starts afresh in every round. A task may bring its own instead."""

    device: Literal["auto", "cuda", "xpu", "mps", "cpu"] = "auto"
    """Where to train; ``auto`` takes the first of these that the site has."""

    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """Precision of the forward pass; ``auto`` is bfloat16 on a GPU that computes in it, else float32."""

    cpu_threads: int = 1
    """Threads for training on a CPU.

    A fixed number, and not that of the cores: sums are split among threads, so with another number of threads
    the result differs in its last bits.
    """

    proximal_mu: float = 0.0
    """Weight of FedProx's pull towards the global model (Li et al. 2020); set by the strategy ``fedprox``."""

    max_batches: int | None = None
    """End each epoch after so many batches; without it an epoch sees every example."""

    def __post_init__(self) -> None:
        check_range("training.epochs", self.epochs, at_least=1)
        check_range("training.batch_size", self.batch_size, at_least=1)
        check_range("training.learning_rate", self.learning_rate, above=0)
        check_range("training.momentum", self.momentum, at_least=0, below=1)
        check_range("training.weight_decay", self.weight_decay, at_least=0)
        check_range("training.cpu_threads", self.cpu_threads, at_least=1)
        check_range("training.proximal_mu", self.proximal_mu, at_least=0)
        check_range("training.max_batches", self.max_batches, at_least=1)
