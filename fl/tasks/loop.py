"""How one site trains and evaluates: the local half of a round.

``train`` takes the global model, takes the steps that the ``[training]`` table asks for and gives the update
back. It picks device and precision, goes on in smaller pieces when memory runs out (``fl.tasks.memory``),
repeats to the bit on a CPU (``fl.tasks.repeat``) and reports what it cost (``fl.tasks.meter``).
"""

from __future__ import annotations

import dataclasses
import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from fl import seeding
from fl.arrays import F32, Arrays
from fl.tasks import batches, memory, parameters
from fl.tasks.base import Site, Task
from fl.tasks.device import choose, choose_precision
from fl.tasks.meter import Meter
from fl.tasks.repeat import repeatable
from fl.tasks.training import TrainingConfig

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn
    from torch.utils.data import Dataset

Progress = Callable[[int, int], None]
"""Called after each batch with the number of batches done and of all batches."""


@dataclasses.dataclass(frozen=True, slots=True)
class LoopReport:
    """How a training went on the machine."""

    device: str
    """``cuda``, ``xpu``, ``mps`` or ``cpu``."""

    precision: Literal["float32", "bfloat16"]
    """Precision of the forward pass."""

    micro_batch_size: int
    """Examples worked on at once in the end; below ``training.batch_size`` if memory ran out."""

    out_of_memory: int
    """How often memory ran out and the pieces were halved."""

    peak_memory_bytes: int
    """See ``fl.tasks.meter.Meter``."""

    samples_per_s: float
    """Examples trained on in a second, reading them included."""

    wall_s: float
    """Seconds for everything: building the model, reading data, training."""

    energy_j: float | None
    """Joules that the GPU drew meanwhile; ``None`` where NVML does not tell."""

    cpu_s: float | None
    """Seconds of cores meanwhile; ``None`` where sites were trained together."""


@dataclasses.dataclass(frozen=True, slots=True)
class TrainResult:
    """What a site answers when it was asked to train."""

    update: dict[str, F32]
    """Local minus global parameters, float32; not finite where the training diverged."""

    num_examples: int
    """Examples that the site has for training: its weight in the mean."""

    metrics: dict[str, float]
    """Means over the last epoch, ``loss`` and what the task measures, taken while the model was changing."""

    report: LoopReport
    """How it went on the machine."""


@dataclasses.dataclass(frozen=True, slots=True)
class EvaluationResult:
    """What a site, or the centre, answers when it was asked to evaluate."""

    num_examples: int
    """Examples that were evaluated."""

    metrics: dict[str, float]
    """Means over them: ``loss`` and what the task measures."""


@dataclasses.dataclass(frozen=True, slots=True)
class CentralResult(EvaluationResult):
    """What training on all data at once reaches."""

    training: TrainResult
    """How it came about."""


_Means = tuple[int, dict[str, float]]
"""A number of examples, and means over them."""


def initial_arrays(task: Task, seed: int) -> dict[str, F32]:
    """The parameters that a run starts from: those of a fresh model, the same to the bit for the same seed.

    Raises:
        TaskError: If torch is missing or the model has a parameter that cannot travel.
    """
    with repeatable(seeding.derive(seed, "initial parameters"), choose("cpu"), cpu_threads=1):
        return parameters.get(task.model())


def train(
    task: Task,
    arrays: Arrays,
    site: Site,
    training: TrainingConfig,
    *,
    seed: int,
    progress: Progress | None = None,
) -> TrainResult:
    """Train the global model on a site's data.

    Args:
        task: What to learn.
        arrays: The global parameters, as ``fl.tasks.parameters.get`` gives them.
        site: Whose data to train on.
        training: How.
        seed: Everything random hangs on it: the order of the examples, dropout.
        progress: Told after each batch.

    Returns:
        The update and how it came about. A diverging training is no error: its update and loss are reported
        as they are, and the server leaves them out.

    Raises:
        TaskError: If data is missing or does not fit (the site named when it has no examples), if ``arrays``
            are not of this task's model, if memory does not suffice for one example, or if torch is missing.
        ConfigError: If ``training.device`` is not in this machine.

    Guarantees:
        On one kind of CPU the result is the same to the bit for the same arguments. No global state is left
        changed.
    """
    return _train(task, arrays, lambda: task.train_data(site), f"site {site.id}", training, seed, progress)


def evaluate(task: Task, arrays: Arrays, dataset: Dataset[Any], training: TrainingConfig) -> EvaluationResult:
    """Measure a model on a dataset.

    Args:
        task: Gives the model, loss and metrics.
        arrays: The parameters to evaluate.
        dataset: For example ``task.evaluation_data(site)`` or ``task.centre_data()``.
        training: Device, precision and batch size.

    Raises:
        TaskError: If the dataset is empty, ``arrays`` are not of this task's model, memory does not suffice
            for one example, or torch is missing.
        ConfigError: If ``training.device`` is not in this machine.
    """
    device = choose(training.device)
    import torch

    num_examples = batches.count(dataset, "this dataset", "evaluation")
    with repeatable(0, device, training.cpu_threads), memory.explained(device), torch.no_grad():
        model = task.model()
        parameters.set(model, arrays)
        measured = _Measured(task, model.to(device).eval(), device, choose_precision(training.precision, device))
        micro_batches = memory.MicroBatches(training.batch_size, device)

        def measure(batch: Any) -> list[_Means]:
            pieces: list[_Means] = []

            def piece(start: int, stop: int) -> None:
                measured.loss(batches.to(batches.piece(batch, start, stop), device))
                pieces.append((stop - start, measured.metrics()))

            micro_batches.run(batches.size(batch), start=pieces.clear, piece=piece)
            return pieces

        seen = [means for batch in batches.batches(dataset, training.batch_size) for means in measure(batch)]
    return EvaluationResult(num_examples, _mean(seen))


def centralised(
    task: Task,
    training: TrainingConfig,
    *,
    epochs: int,
    seed: int,
    site: Site | None = None,
    progress: Progress | None = None,
) -> CentralResult:
    """Train on all data at once and evaluate: what a federation is compared with.

    Where the task has data at the centre, everything that sites train or evaluate on is trained on, and the
    centre's data is evaluated. Where it has none, the division of the one site is kept.

    Args:
        task: What to learn.
        training: How; its epochs are replaced.
        epochs: Passes over all examples.
        seed: Of the initial parameters and of everything random in training.
        site: One site that has all data; by default the task's common data as a single part.
        progress: Told after each batch.

    Raises:
        TaskError: As ``train`` and ``evaluate`` do.
        ConfigError: If ``training.device`` is not in this machine.
    """
    arrays = initial_arrays(task, seed)
    from torch.utils.data import ConcatDataset

    whole = site or Site("centre")
    centre = task.centre_data()
    evaluation = task.evaluation_data(whole) if centre is None else centre

    def read() -> Dataset[Any]:
        own = task.train_data(whole)
        return own if centre is None else ConcatDataset([own, task.evaluation_data(whole)])

    training = dataclasses.replace(training, epochs=epochs)
    result = _train(
        task, arrays, read, f"site {whole.id}", training, seeding.derive(seed, "central training"), progress
    )
    final = {name: arrays[name] + result.update[name] for name in arrays}
    evaluated = evaluate(task, final, evaluation, training)
    return CentralResult(evaluated.num_examples, evaluated.metrics, result)


def _train(
    task: Task,
    arrays: Arrays,
    read: Callable[[], Dataset[Any]],
    whose: str,
    training: TrainingConfig,
    seed: int,
    progress: Progress | None,
) -> TrainResult:
    device = choose(training.device)
    with repeatable(seed, device, training.cpu_threads), memory.explained(device), Meter(device) as whole:
        dataset = read()
        num_examples = batches.count(dataset, whose, "training")
        trainer = _Trainer(task, arrays, training, device, seed)
        with Meter(device) as epochs:
            metrics = trainer.run(dataset, num_examples, progress)
        after = parameters.get(trainer.model)
        update = {name: after[name] - np.asarray(arrays[name], np.float32) for name in after}
    report = LoopReport(
        device=device.type,
        precision=trainer.precision,
        micro_batch_size=trainer.micro_batches.size,
        out_of_memory=trainer.micro_batches.halvings,
        peak_memory_bytes=whole.peak_memory_bytes,
        samples_per_s=trainer.num_seen / epochs.wall_s,
        wall_s=whole.wall_s,
        energy_j=whole.energy_j,
        cpu_s=whole.cpu_s,
    )
    return TrainResult(update, num_examples, metrics, report)


class _Trainer:
    """One round of training: the model, its optimiser and the steps."""

    def __init__(self, task: Task, arrays: Arrays, training: TrainingConfig, device: torch.device, seed: int) -> None:
        self.model = task.model()
        parameters.set(self.model, arrays)
        self.model.to(device).train()
        self.precision = choose_precision(training.precision, device)
        self.micro_batches = memory.MicroBatches(training.batch_size, device)
        self.num_seen = 0
        self._training, self._device, self._seed = training, device, seed
        self._measured = _Measured(task, self.model, device, self.precision)
        self._optimiser = task.optimiser(self.model.parameters(), training)
        trained = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        self._global = [(w, w.detach().clone()) for w in trained] if training.proximal_mu else []

    def run(self, dataset: Dataset[Any], num_examples: int, progress: Progress | None) -> dict[str, float]:
        """All epochs; the means over the last."""
        import torch

        training = self._training
        torch.manual_seed(self._seed)  # what is random from here on doesn't hang on how the model was made
        order = torch.Generator().manual_seed(seeding.derive(self._seed, "order"))
        per_epoch = batches.num_batches(num_examples, training.batch_size, training.max_batches)
        seen: list[_Means] = []
        for epoch in range(training.epochs):
            is_last = epoch == training.epochs - 1
            one_pass = batches.batches(dataset, training.batch_size, shuffle=order, at_most=training.max_batches)
            for number, batch in enumerate(one_pass, start=1):
                seen += self._step(batch, measure=is_last)
                if progress:
                    progress(epoch * per_epoch + number, training.epochs * per_epoch)
        return _mean(seen)

    def _step(self, batch: Any, *, measure: bool) -> list[_Means]:
        """One step of the optimiser; what was measured, if asked (measuring waits for a GPU)."""
        import torch

        num_examples = batches.size(batch)
        pieces: list[_Means] = []
        buffers_before = [buffer.clone() for buffer in self.model.buffers()]

        def start() -> None:
            pieces.clear()
            self._optimiser.zero_grad()
            with torch.no_grad():
                for buffer, before in zip(self.model.buffers(), buffers_before, strict=True):
                    buffer.copy_(before)

        def piece(start: int, stop: int) -> None:
            loss = self._measured.loss(batches.to(batches.piece(batch, start, stop), self._device))
            torch.autograd.backward(loss * ((stop - start) / num_examples))
            if measure:
                pieces.append((stop - start, self._measured.metrics()))

        self.micro_batches.run(num_examples, start=start, piece=piece)
        self._pull_towards_global()
        self._optimiser.step()
        self.num_seen += num_examples
        return pieces

    def _pull_towards_global(self) -> None:
        """FedProx: the gradient of ``mu / 2 * |local - global|**2`` (Li et al. 2020, eq. 2)."""
        for parameter, at_start in self._global:
            if parameter.grad is not None:
                parameter.grad.add_(parameter.detach() - at_start, alpha=self._training.proximal_mu)


class _Measured:
    """A model with its task's loss, which keeps the outputs that the loss was made from for the metrics."""

    def __init__(self, task: Task, model: nn.Module, device: torch.device, precision: str) -> None:
        self._task, self._model = task, model
        self._device_type, self._is_bfloat16 = device.type, precision == "bfloat16"
        self._outputs: Any = None
        # Weakly, because a model that holds what holds it stays in memory until Python looks for such circles.
        remember = weakref.WeakMethod(self._remember)

        def hook(module: nn.Module, inputs: Any, outputs: Any) -> None:
            if method := remember():
                method(outputs)

        model.register_forward_hook(hook)

    def loss(self, batch: tuple[Any, Any]) -> Tensor:
        """The mean loss over a batch on the device."""
        import torch

        self._inputs, self._targets = batch
        self._outputs = None
        with torch.autocast(self._device_type, torch.bfloat16, enabled=self._is_bfloat16):
            loss = self._task.loss(self._model, self._inputs, self._targets)
        self._loss = loss.detach()
        return loss

    def metrics(self) -> dict[str, float]:
        """What the task measures on the batch of the last ``loss``, and that loss."""
        import torch

        if self._outputs is None:  # the task's loss used parts of the model, never the whole
            with (
                torch.no_grad(),
                torch.autocast(self._device_type, torch.bfloat16, enabled=self._is_bfloat16),
            ):
                self._model(self._inputs)
        measured = self._task.metrics(self._outputs, self._targets)
        return {**{name: float(value) for name, value in measured.items()}, "loss": self._loss.item()}

    def _remember(self, outputs: Any) -> None:
        self._outputs = batches.detached(outputs)


def _mean(seen: list[_Means]) -> dict[str, float]:
    """The means over all examples. Unlike ``fl.metrics.weighted_mean`` it hides nothing: NaN stays NaN."""
    num_examples = sum(number for number, _ in seen)
    names = dict.fromkeys(name for _, means in seen for name in means)
    return {name: sum(number * means[name] for number, means in seen) / num_examples for name in names}
