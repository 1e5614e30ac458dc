"""A model put together from batched kernels: one training step of several copies of it, without autograd."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from fl.arrays import Arrays, Layout
from fl.tasks.base import Task
from fl.tasks.device import choose_precision
from fl.tasks.training import TrainingConfig
from simulations.engine.vectorised import first, layers, pictures
from simulations.engine.vectorised.batch import Batch
from simulations.engine.vectorised.chain import Chain, chain_of
from simulations.engine.vectorised.first import FirstConvolution
from simulations.engine.vectorised.parameters import Parameters

STATELESS: tuple[type[nn.Module], ...] = (
    nn.Identity, nn.ELU, nn.SELU, nn.CELU, nn.GELU, nn.SiLU, nn.Mish, nn.Tanh, nn.Sigmoid, nn.Hardtanh, nn.ReLU6,
    nn.Hardswish, nn.Hardsigmoid, nn.LeakyReLU, nn.Softplus, nn.Softsign, nn.Softmax, nn.LogSoftmax,
    nn.MaxPool1d, nn.MaxPool2d, nn.AvgPool1d, nn.AvgPool2d, nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d,
    nn.AdaptiveMaxPool2d, nn.Flatten, nn.Unflatten, nn.ZeroPad2d, nn.ReflectionPad2d, nn.PixelShuffle,
)  # fmt: skip
"""Layers without parameters that treat each example alike."""


FEW = 16
"""With fewer classes than a register has places for, torch goes through a softmax one number at a time, unless it is
taken across memory: at 10 classes that is 1.5 to 8 times faster."""

LOOPS_S, CHAIN_S = 120.0, 1.0
"""A run that is over sooner is not worth compiling some loops for, or the one function for all chains: that is done
once on a computer."""


class Program(Protocol):
    """One training step of several copies of a model.

    Attributes:
        name: For the log.
        layout: What is trained: names and shapes.
        is_channels_last: Whether pictures are to come with their channels last in memory.
        draws: Whether the model draws random numbers while it trains.
        can_compile: Whether there is something to compile.
        pays_s: A run that is over sooner is not worth compiling for.
        fits_any_width: Whether what is compiled serves any number of copies.
        chain: What takes all steps at once, if the model is a chain of linear layers, trained on a CPU.
        descends: Which parameters it can take the steps of plain SGD with itself: see ``Parameters.descending``.
    """

    name: str
    layout: Layout
    is_channels_last: bool
    draws: bool
    can_compile: bool
    pays_s: float
    fits_any_width: bool
    chain: Chain | None
    descends: frozenset[str]

    def compile(self) -> None:
        """Have torch compile what it can; that takes effect, and a good while, at the next step."""
        ...

    def load(self, arrays: Arrays) -> None:
        """Take over what a global model has beside the parameters that are trained."""
        ...

    def gradients(self, parameters: Parameters, batch: Batch) -> tuple[Tensor, Tensor | None]:
        """Write the gradients of the mean loss of each copy, or descend them.

        Returns:
            Its outputs, ``(K, B, …)``, and the loss of each copy, ``(K,)``; none where that is cross entropy.
        """
        ...


class Kernels:
    """A sequence of layers with cross entropy behind them.

    Args:
        model: A sequence that ``unsupported`` has nothing against.
        device: Where it will run.
        chain: The same as a chain of linear layers, if it is one.
    """

    fits_any_width = True

    def __init__(self, model: nn.Module, device: torch.device, chain: Chain | None = None) -> None:
        named = list(_flat(model))
        self.layout = Layout(tuple((name, tuple(p.shape)) for name, p in model.named_parameters()))
        self._layers = list(_put_together(named))
        self._dropouts = [layer for layer in self._layers if isinstance(layer, layers.Dropout)]
        self._first = next((i for i, layer in enumerate(self._layers) if isinstance(layer, TRAINED)), 0)
        self.has_convolutions = any(isinstance(layer, pictures.Conv2d | FirstConvolution) for layer in self._layers)
        self.is_channels_last = self.has_convolutions and device.type == "cpu"
        self.draws = bool(self._dropouts)
        self._compilable = [
            layer for layer in self._layers if isinstance(layer, pictures.MaxPool2x2 | FirstConvolution)
        ]
        self.can_compile = (bool(self._compilable) and self.is_channels_last) or chain is not None
        self.chain, self.pays_s = chain, LOOPS_S if chain is None else CHAIN_S
        descending = [layer for layer in self._layers if isinstance(layer, DESCENDING)]
        self.descends = frozenset(name for layer in descending for name in layer.names)
        self._minus_one = torch.full((1, 1, 1), -1.0, device=device)
        self._minus_ones = self._minus_one
        self.name = "batched kernels"

    def compile(self) -> None:
        """As ``Program`` says."""
        for layer in self._compilable:
            layer.compile()
        self.name = "batched kernels, compiled"
        if self.chain:
            self.chain.compile()
            self.name = "linear layers, native"

    def load(self, arrays: Arrays) -> None:
        """As ``Program`` says: there is nothing else."""

    def gradients(self, parameters: Parameters, batch: Batch) -> tuple[Tensor, None]:
        """As ``Program`` says."""
        for dropout in self._dropouts:
            dropout.generators, dropout.counts = list(batch.generators), list(batch.counts)
        x = batch.inputs
        for layer in self._layers:
            x = layer.forward(x, parameters)
        targets = batch.targets.unsqueeze(-1)
        dy: Tensor | None = torch.softmax(x, -1) if x.size(-1) >= FEW else torch.softmax(x.mT, -2).mT
        assert dy is not None
        if self._minus_ones.shape != targets.shape:
            self._minus_ones = self._minus_one.expand(targets.shape)
        dy.scatter_add_(-1, targets, self._minus_ones)
        parameters.scale = 1.0
        if isinstance(batch.weights, Tensor):
            dy.mul_(batch.weights.unsqueeze(-1))
        elif len(parameters.descending) == len(self.layout.entries):
            parameters.scale = batch.weights  # once a layer instead of once a number
        else:
            dy.mul_(batch.weights)
        for place in range(len(self._layers) - 1, self._first - 1, -1):
            assert dy is not None
            dy = self._layers[place].backward(dy, parameters, wanted=place > self._first)
        return x, None


def unsupported(model: nn.Module) -> str | None:
    """Why a model cannot be put together from kernels; ``None`` if it can."""
    if not isinstance(model, nn.Sequential):
        return f"{type(model).__name__} is no nn.Sequential"
    seen: set[int] = set()
    for prefix, module in _flat(model):
        name = f"layer {prefix.rstrip('.')} ({type(module).__name__})"
        if any(not parameter.requires_grad for parameter in module.parameters()):
            return f"{name} has frozen parameters"
        if any(id(parameter) in seen for parameter in module.parameters()):
            return f"{name} shares its parameters with another"
        seen.update(id(parameter) for parameter in module.parameters())
        if any(parameter.dtype != torch.float32 for parameter in module.parameters()):
            return f"{name} has parameters of another type than float32"
        if has_hooks(module):
            return f"{name} has hooks"
        if why := _no_layer(module):
            return f"{name} {why}"
    if not seen:
        return "the model has no parameters"
    return None


def has_hooks(module: nn.Module) -> bool:
    """Whether something of the user's own happens when a module runs."""
    hooks: tuple[Any, ...] = (module._forward_hooks, module._forward_pre_hooks, module._backward_hooks)
    return any(hooks)


def has_default(task: Task, *names: str) -> bool:
    """Whether a task has these methods from ``Task``."""
    kind = type(getattr(task, "inner", task))
    return all(getattr(kind, name) is getattr(Task, name) for name in names)


def program_for(task: Task, training: TrainingConfig, device: torch.device) -> tuple[Program | None, str]:
    """What trains several copies of a task's model at once, with its name; or ``None`` and why nothing does."""
    from simulations.engine.vectorised.functional import Functional

    if not has_default(task, "optimiser"):
        return None, "the task brings an optimiser of its own"
    precision: str = choose_precision(training.precision, device)
    model = task.model()
    why: str | None
    if precision != "float32":
        why = "kernels compute in float32 only"
    elif not has_default(task, "loss"):
        why = "the task brings a loss of its own"
    else:
        why = unsupported(model)
    if not why:
        is_usual = device.type == "cpu" and has_default(task, "metrics") and training.optimiser == "sgd"
        chain = chain_of([module for _, module in _flat(model)]) if is_usual else None
        return Kernels(model, device, chain), "batched kernels"
    if len(list(model.named_parameters(remove_duplicate=False))) > len(list(model.parameters())):
        return None, "layers share parameters"
    for name, module in model.named_modules():
        if isinstance(module, nn.modules.batchnorm._NormBase) and module.track_running_stats:
            return None, f"{name} ({type(module).__name__}) keeps statistics of the batches that it has seen"
    return Functional(task, device, precision), f"torch.func, because {why}"


def _no_layer(module: nn.Module) -> str | None:
    """Why there is no kernel for a module."""
    kind = type(module)
    if kind is nn.Conv2d:
        if module.padding_mode != "zeros" or isinstance(module.padding, str):
            return "pads in another way than with a number of zeros"
        return None
    if kind is nn.Embedding:
        options: tuple[Any, ...] = (module.padding_idx, module.max_norm)
        special = module.scale_grad_by_freq or any(option is not None for option in options)
        return "has an option that is not supported" if special else None
    if kind in (nn.Linear, nn.ReLU, nn.Dropout, nn.LayerNorm, nn.GroupNorm):
        return None
    if kind is nn.Flatten or (kind is nn.MaxPool2d and module.return_indices):
        return None if kind is nn.Flatten else "returns indices"
    if isinstance(module, nn.modules.batchnorm._NormBase):
        return "keeps statistics of the batches that it has seen"
    if kind in STATELESS:
        return None
    return "has no batched kernel"


def _flat(module: nn.Module, prefix: str = "") -> Iterator[tuple[str, nn.Module]]:
    """The layers of nested sequences in order, with the prefixes of their parameters' names."""
    for name, child in module._modules.items():  # ``named_children`` leaves out what is there twice
        if child is None:
            continue
        if type(child) is nn.Sequential:
            yield from _flat(child, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}.", child


def _put_together(named: Sequence[tuple[str, nn.Module]]) -> Iterator[layers.Layer]:
    """The layers in order; a ReLU and the maximum behind it are one, which is equal, and works on a quarter of it.

    Both are one with a convolution before them, if nothing before that is trained.
    """
    place, is_first = 0, True
    while place < len(named):
        prefix, module = named[place]
        following = [module for _, module in named[place + 1 : place + 3]]
        is_rectified = type(following[0]) is nn.ReLU if following else False
        if is_first and type(module) is nn.Conv2d and first.fits(module) and _is_pool(following[is_rectified:]):
            place += 2 + is_rectified
            yield FirstConvolution(module, prefix, is_rectified=is_rectified)
        elif type(module) is nn.ReLU and _is_pool(following):
            place += 2
            yield pictures.MaxPool2x2(is_rectified=True)
        else:
            place += 1
            yield _layer_of(module, prefix)
        is_first &= not list(module.parameters())


def _layer_of(module: nn.Module, prefix: str) -> layers.Layer:
    if type(module) is nn.Linear:
        return layers.Linear(module, prefix)
    if type(module) is nn.Conv2d:
        return pictures.Conv2d(module, prefix)
    if type(module) is nn.Embedding:
        return layers.Embedding(module, prefix)
    if type(module) in (nn.LayerNorm, nn.GroupNorm):
        return layers.Norm(module, prefix)  # type: ignore[arg-type]
    if type(module) is nn.ReLU:
        return layers.ReLU()
    if type(module) is nn.Dropout:
        return layers.Dropout(module)
    if pictures.flattens(module):
        return pictures.Flatten()
    if type(module) is nn.MaxPool2d and _is_2x2(module):
        return pictures.MaxPool2x2(is_rectified=False)
    return layers.Stateless(module)


TRAINED = (*layers.TRAINED, FirstConvolution)
"""Layers that may have parameters."""

DESCENDING = (layers.Linear, pictures.Conv2d, FirstConvolution)
"""Those that move theirs themselves."""


def _is_pool(following: Sequence[nn.Module]) -> bool:
    return bool(following) and type(following[0]) is nn.MaxPool2d and _is_2x2(following[0])


def _is_2x2(pool: nn.MaxPool2d) -> bool:
    return (
        pool.kernel_size in (2, (2, 2))
        and pool.stride in (2, (2, 2))
        and pool.padding in (0, (0, 0))
        and pool.dilation in (1, (1, 1))
        and not pool.ceil_mode
    )
